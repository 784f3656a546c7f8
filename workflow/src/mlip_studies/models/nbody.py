"""SE(3)-Transformer for charged particles: where they are and how fast they move some time ahead.

Every particle is a node with its charge as a scalar and its velocity as a vector; all pairs are edges, with the product
of the charges beside the distance. Two vectors per node come out, the changes of position and of velocity, so that a
shift of all positions changes nothing and a rotation turns them all. Units are those of the simulation
(:mod:`mlip_studies.data.nbody`).

Source: B. E. Hedelius, *Learning inter-atomic forces with an SE(3)-Transformer*, Brigham Young University 2021, section
3.1; the task is that of F. B. Fuchs et al., NeurIPS 2020. Neither states the thesis's two networks in numbers, see
:data:`VARIANTS`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mlip_studies.artifacts import PathLike, atomic_path, require
from mlip_studies.errors import InputError
from mlip_studies.models.se3_transformer import SE3TransformerNetwork
from mlip_studies.runtime.options import read_options

FORMAT = "mlip-studies n-body network 1"
#: ``own``: the thesis's basic network of section 3.2 with its norm (eq. 2.9). ``original``: the n-body example of the
#: published SE(3)-Transformer (degrees up to 3, eight channels, values and keys with a quarter of them, two heads),
#: with a bias in the norm; its last layer has a linear self-interaction here, and positions are no input features.
VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "own": MappingProxyType(
            {"norm": "layer", "channels": 16, "max_degree": 2, "n_layers": 3, "n_heads": 8, "channel_division": 1}
        ),
        "original": MappingProxyType(
            {"norm": "bias", "channels": 8, "max_degree": 3, "n_layers": 4, "n_heads": 2, "channel_division": 4}
        ),
    }
)


@dataclass(frozen=True)
class NBodyNetworkConfig:
    """Which network.

    Attributes:
        variant: ``own`` or ``original``, see :data:`VARIANTS`; the options below replace its numbers.
        channels: of each degree between the layers.
        max_degree: largest degree between the layers.
        n_layers: attention layers.
        n_heads: attention heads.
        channel_division: keys and values have this many times fewer channels.
    """

    variant: str = "own"
    channels: int | None = None
    max_degree: int | None = None
    n_layers: int | None = None
    n_heads: int | None = None
    channel_division: int | None = None

    def __post_init__(self) -> None:
        """Check the name; numbers are checked where the network is built.

        Raises:
            InputError: no such variant.
        """
        if self.variant not in VARIANTS:
            raise InputError(f"nbody.network.variant: {self.variant!r} is unknown; choose one of {', '.join(VARIANTS)}")

    def options(self) -> dict[str, Any]:
        """Options of the network, those of the variant where nothing else is said."""
        given = {key: value for key, value in dataclasses.asdict(self).items() if key != "variant"}
        return {**VARIANTS[self.variant], **{key: value for key, value in given.items() if value is not None}}


class NBodyTransformer(nn.Module):
    """Changes of position and velocity of all particles from what they are now."""

    first: Tensor
    second: Tensor

    def __init__(self, config: NBodyNetworkConfig, n_balls: int) -> None:
        """Build the network.

        Args:
            config: its options.
            n_balls: particles of a system, all of which see each other.

        Raises:
            InputError: an option out of range, or fewer than two particles.
        """
        super().__init__()
        if n_balls < 2:
            raise InputError(f"nbody: {n_balls} particles; expected at least two")
        self.config, self.n_balls = config, n_balls
        options = config.options()
        if int(options["max_degree"]) < 1:
            raise InputError("nbody.network.max_degree: 0; expected at least 1, because velocities are vectors")
        self.network = SE3TransformerNetwork({0: 1, 1: 1}, {1: 2}, n_edge_features=1, **options)
        first, second = torch.triu_indices(n_balls, n_balls, 1)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)
        self._graphs: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def _graph(self, n: int) -> tuple[Tensor, Tensor]:
        """Receivers and senders of all pairs of n systems, both directions; the graph never changes, so it is kept."""
        key = (n, self.first.device)
        if key not in self._graphs:
            offset = torch.arange(n, device=self.first.device).unsqueeze(1) * self.n_balls
            one, other = (self.first + offset).flatten(), (self.second + offset).flatten()
            if len(self._graphs) > 8:
                self._graphs.clear()
            self._graphs[key] = (torch.cat([one, other]), torch.cat([other, one]))
        return self._graphs[key]

    def forward(self, positions: Tensor, velocities: Tensor, charges: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted changes.

        Args:
            positions: shape (n, n_balls, 3), in the unit of length of the data.
            velocities: shape (n, n_balls, 3), in the data's unit of velocity.
            charges: shape (n, n_balls), dimensionless.

        Returns:
            changes of position and of velocity, each of shape (n, n_balls, 3).

        Raises:
            InputError: another number of particles than the network has.
        """
        n, n_balls = charges.shape
        if n_balls != self.n_balls:
            raise InputError(f"nbody: systems of {n_balls} particles; the network was built for {self.n_balls}")
        receivers, senders = self._graph(n)
        # Products and differences by fixed indices of the pairs, once for both directions.
        products = (charges[:, self.first] * charges[:, self.second]).reshape(-1, 1)
        forward = (positions[:, self.second] - positions[:, self.first]).reshape(-1, 3)
        changes = self.network(
            {0: charges.reshape(-1, 1, 1), 1: velocities.reshape(-1, 1, 3)},
            torch.cat([forward, -forward]),
            receivers,
            senders,
            torch.cat([products, products]),
            n_pairs=forward.shape[0],
        )[1].view(n, n_balls, 2, 3)
        return changes[:, :, 0], changes[:, :, 1]

    def n_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def save_nbody(model: NBodyTransformer, path: PathLike, provenance: Mapping[str, Any] | None = None) -> None:
    """Write weights and options as one safetensors file.

    Args:
        model: the network.
        path: the file.
        provenance: what else to keep, JSON-ready.
    """
    facts = {
        "format": FORMAT,
        "network": dataclasses.asdict(model.config),
        "n_balls": model.n_balls,
        "provenance": dict(provenance or {}),
    }
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(weights, temporary, {"mlip_studies": json.dumps(facts, sort_keys=True)})


def load_nbody(path: PathLike) -> NBodyTransformer:
    """Read what :func:`save_nbody` wrote, on the CPU.

    Raises:
        InputError: missing, changed since it was written, or not such a file.
    """
    path = require(path)
    try:
        with safe_open(path, framework="pt") as archive:
            facts = json.loads((archive.metadata() or {}).get("mlip_studies", "{}"))
            if facts.get("format") != FORMAT:
                raise ValueError("its header is of another format")
            weights = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
        model = NBodyTransformer(read_options(NBodyNetworkConfig, facts["network"], "network"), int(facts["n_balls"]))
        model.to(next(iter(weights.values())).dtype)
        model.load_state_dict(weights)
    except (SafetensorError, ValueError, KeyError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:150]
        raise InputError(
            f"{path}: not a trained n-body network ({reason}); remove it to have it trained again"
        ) from None
    return model
