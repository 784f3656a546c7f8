"""Steps of fixed shape that run without the host: recorded as CUDA graphs, or traced and compiled.

On a GPU the models of this package are bound by the time to launch thousands of small kernels, not by arithmetic. A
padded batch (:class:`mlip_studies.graph.batch.Budget`) gives every step the same kernels on the same shapes, so that
the whole step, from row numbers to updated weights, is recorded once as a CUDA graph and replayed with one launch.
Compilation on top fuses what is left: energy and forces become one graph of elementary operations (``make_fx``), the
gradient for the forces included, and the outer derivative goes through the compiled graph.

On a CPU the same classes take the same padded steps without recording anything.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.overrides import TorchFunctionMode

from mlip_studies.errors import InputError
from mlip_studies.graph.batch import Budget, GraphBatch, RaggedDataset
from mlip_studies.graph.scatter import gather
from mlip_studies.models.base import AtomisticModel
from mlip_studies.training.ema import EMA
from mlip_studies.training.loss import Counts, Loss
from mlip_studies.training.steps import EagerStep

#: options of an optimizer that a recorded step needs
_RECORDABLE = {"capturable": True, "fused": True, "foreach": False}


def padding_reach(model: AtomisticModel) -> float:
    """A length (Å) that no edge of the model exceeds, beyond which padding edges are put."""
    cutoffs = [value for name, value in vars(model).items() if name.endswith("cutoff")]
    return max([10.0, *(float(value) for value in cutoffs if isinstance(value, float | int))])


class Replay:
    """A function without arguments on static tensors, recorded as a CUDA graph after a few ordinary calls.

    The first calls run on a side stream, as recording needs, and count like all others: a training step is not
    repeated. Recording runs nothing; it is followed by a replay. If recording fails (the function waits for the host
    somewhere), one line says so, and the function keeps being called. On a CPU it is only called.
    """

    def __init__(self, function: Callable[[], Any], device: torch.device, what: str, warm_up: int = 3) -> None:
        """Wrap a function.

        Args:
            function: reads static tensors, and returns tensors or containers of them.
            device: where these are.
            what: name for the message about a failed recording.
            warm_up: ordinary calls before recording.
        """
        self.function, self.device, self.what, self.warm_up = function, device, what, warm_up
        self.graph: Any = None
        self.output: Any = None
        self._side: Any = None
        self.calls = 0
        self.failed = False

    def reset(self) -> None:
        """Forget the recording, for example because a tensor that it writes was replaced."""
        self.graph, self.output, self.calls = None, None, 0

    def __call__(self) -> Any:
        """Run the function or its recording; a recording's output is overwritten by the next call."""
        if self.device.type != "cuda" or self.failed:
            return self.function()
        if self.graph is None:
            if self.calls < self.warm_up:
                self.calls += 1
                return self._on_side_stream()
            self._record()
            if self.failed:
                return self.function()
        self.graph.replay()
        return self.output

    def _on_side_stream(self) -> Any:
        current = torch.cuda.current_stream(self.device)
        self._side = self._side or torch.cuda.Stream(self.device)
        self._side.wait_stream(current)
        with torch.cuda.stream(self._side):
            output = self.function()
        current.wait_stream(self._side)
        return output

    def _record(self) -> None:
        try:
            graph = torch.cuda.CUDAGraph()
            # A graph's memory is its own pool: what other graphs and eager steps allocate never overlaps with it.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                output = self.function()
        except RuntimeError as error:
            self.failed = True
            _warn(f"{self.what} cannot be recorded as a CUDA graph ({_first_line(error)}); it runs unrecorded")
            return
        self.graph, self.output = graph, output


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class _KeepDetach(TorchFunctionMode):
    """Marks the ``detach`` calls that a model makes itself in the graph that is being traced."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        mode = get_proxy_mode() if func is torch.Tensor.detach else None
        before = None if mode is None else len(mode.tracer.graph.nodes)
        result = func(*args, **(kwargs or {}))
        if mode is not None:
            for node in list(mode.tracer.graph.nodes)[before:]:
                node.meta["own_detach"] = True
        return result


def _copy(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """aten.copy, which has no derivative of its own; with the target's strides, as it promises."""
    if target.is_contiguous():
        return source.to(target.dtype).expand(target.shape).clone(memory_format=torch.contiguous_format)
    return torch.where(torch.ones_like(target, dtype=torch.bool), source.to(target.dtype), target)


def _is_mutation(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


class _EnergyAndForces(nn.Module):
    def __init__(self, model: AtomisticModel, create_graph: bool) -> None:
        super().__init__()
        self.model, self.create_graph = model, create_graph

    def forward(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        return self.model.energy_and_forces(batch, create_graph=self.create_graph)


class TracedForces:
    """Energy and forces as a graph of elementary operations, traced once per shape of batch, and compiled.

    The graph takes parameters, buffers and the batch's tensors and contains the differentiation that gives the forces.
    Gradients of both results with respect to the parameters flow through it.
    """

    def __init__(self, model: AtomisticModel, create_graph: bool = True, compiled: bool = True) -> None:
        """Wrap a model.

        Args:
            model: its tensors are read anew at each call, so training in place is seen.
            create_graph: whether the results are to be differentiated; if not, nothing is kept for it.
            compiled: compile the graph with inductor; else run it as traced.
        """
        self.model, self.create_graph, self.compiled = model, create_graph, compiled
        self._module = _EnergyAndForces(model, create_graph)
        self._graphs: dict[tuple[Any, ...], Callable[..., tuple[Tensor, Tensor]]] = {}
        self.failed = False

    def __call__(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        """Energy (n_graphs,), eV, and forces (n_atoms, 3), eV/Å, of a batch of fixed shape."""
        with torch.set_grad_enabled(self.create_graph):
            return self._run(batch)

    def _run(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor]
        if self.failed:
            result = self._module(batch)
            return result
        tensors = {
            field.name: value for field in fields(batch) if isinstance(value := getattr(batch, field.name), Tensor)
        }
        state = {**dict(self._module.named_parameters()), **dict(self._module.named_buffers())}
        key = (batch.budget, batch.n_pairs, *((name, value.shape, value.dtype) for name, value in tensors.items()))
        inputs = (list(state.values()), list(tensors.values()))
        if key in self._graphs:
            return self._graphs[key](*inputs)
        try:
            graph = self.trace(batch, list(state), list(tensors), inputs)
            run = torch.compile(graph, dynamic=False, fullgraph=True) if self.compiled else graph
            result = run(*inputs)
            if self.create_graph:
                # The outer derivative is compiled at its first use: have it fail here, if it does.
                trained = [value for value in state.values() if value.requires_grad]
                torch.autograd.grad(result[0].sum() + result[1].sum(), trained, allow_unused=True)
                result = run(*inputs)
        except Exception as error:  # whatever a compiler may raise, the plain function does the same work
            self.failed = True
            name = type(self.model).__name__
            _warn(f"{name} could not be compiled ({_first_line(error)}); it runs uncompiled")
            result = self._module(batch)
            return result
        self._graphs[key] = run
        return result

    def trace(
        self, batch: GraphBatch, names: list[str], columns: list[str], inputs: tuple[list[Tensor], list[Tensor]]
    ) -> fx.GraphModule:
        """The graph of elementary operations of ``(parameters and buffers, tensors of the batch)``, of any shape."""

        def function(state: list[Tensor], tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
            changed: dict[str, Any] = dict(zip(columns, tensors, strict=True))
            this = replace(batch, **changed)
            outputs: tuple[Tensor, Tensor] = functional_call(
                self._module, dict(zip(names, state, strict=True)), (this,)
            )
            return outputs

        with _KeepDetach():
            graph = make_fx(function)(*inputs)
        # Backward formulas read their saved tensors through a detach, which would cut the derivative of the forces.
        for node in graph.graph.nodes:
            if node.target is torch.ops.aten.detach.default and "own_detach" not in node.meta:
                node.replace_all_uses_with(node.args[0])
                graph.graph.erase_node(node)
        graph.recompile()
        if any(_is_mutation(node) for node in graph.graph.nodes):
            # Autograd could not go through the graph where it overwrites tensors that derivatives need.
            with torch.no_grad():
                pure = functionalize(graph, remove="mutations")
                graph = make_fx(pure, decomposition_table={torch.ops.aten.copy.default: _copy})(*inputs)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return graph


class CapturedStep(EagerStep):
    """A training step on padded batches, recorded as one CUDA graph.

    The graph holds all of it: the batch is made from the row numbers, energy and forces, loss, both backward passes,
    gradient scaling, clipping, the optimizer and the moving average of the weights. A batch that does not fit the
    budget (or has another number of molecules, like the last one of an epoch) takes the eager step on a ragged batch.

    Attributes:
        padded_steps: steps on padded batches so far.
        ragged_steps: steps on batches that did not fit.
    """

    def __init__(
        self,
        model: AtomisticModel,
        data: RaggedDataset,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None = None,
        gradient_scales: Mapping[str, float] | None = None,
        ema: EMA | None = None,
        fabric: Any = None,
        *,
        micro_batches: int = 1,
        budget: Budget | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Prepare a step; nothing runs yet.

        Args:
            model: trained in place.
            data: training set.
            loss: what is minimised.
            optimizer: on a GPU one that can be recorded: Adam, AdamW and others with the option ``capturable``.
            clip_norm: largest global norm of the gradient, or None.
            gradient_scales: factors on the gradients of parameters or modules, by name, before the norm is taken.
            ema: averaged weights to update, or None.
            fabric: the processes, of which there must be one; None for one.
            micro_batches: equal parts of a batch, computed one after another inside the recording.
            budget: sizes of one padded part; by default ``data.budget`` of the part's number of molecules.
            batch_size: molecules of a full batch, for the default budget; that of the first call if not given.

        Raises:
            InputError: several processes, or an optimizer that cannot be recorded.
        """
        super().__init__(
            model, data, loss, optimizer, clip_norm, gradient_scales, ema, fabric, micro_batches=micro_batches
        )
        if self.world > 1:
            raise InputError("training.step_mode: captured steps work with one process; use eager with several")
        self._part_budget, self._reach = budget, padding_reach(model)
        self.padded_steps = self.ragged_steps = 0
        self._base = getattr(optimizer, "optimizer", optimizer)
        self._rates: list[Tensor] = []
        self._names: list[str] = []
        self._rows = torch.zeros(0, dtype=torch.int64, device=data.device)
        self._replay = Replay(self._padded, data.device, f"a training step of {type(model).__name__}")
        if data.device.type == "cuda":
            self._prepare_optimizer()
            # State read from a checkpoint is new tensors, not those that a recording writes.
            self._base.register_load_state_dict_post_hook(self._prepare_optimizer)
        if batch_size is not None:
            self._choose_budget(batch_size)

    def _choose_budget(self, batch_size: int) -> Budget:
        if self._part_budget is None:
            self._part_budget = self.data.budget(max(1, batch_size // self.micro_batches))
        return self._part_budget

    def __call__(self, rows: NDArray[np.integer]) -> dict[str, Tensor]:
        """Take one step on ``rows`` (n_graphs,); see :meth:`EagerStep.__call__`."""
        budget = self._choose_budget(len(rows))
        counts = self.data.counts[rows]
        self._take_rates()
        if len(rows) % self.micro_batches or not all(
            budget.holds(part) for part in counts.reshape(self.micro_batches, -1)
        ):
            self.ragged_steps += 1
            return super().__call__(rows)
        self.padded_steps += 1
        index = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.int64))
        if len(self._rows) != len(rows):
            self._rows = index.to(self.data.device, copy=True)
        elif self.data.device.type == "cuda":
            # From pinned memory the copy does not wait; the allocator keeps that memory until the copy is done.
            self._rows.copy_(index.pin_memory(), non_blocking=True)
        else:
            self._rows.copy_(index)
        # One copy for all terms: the recording's own tensors are overwritten by the next step.
        values = self._replay().clone()
        return dict(zip(self._names, values.unbind(), strict=True))

    def summary(self) -> dict[str, int]:
        """How many steps ran padded, and how many batches did not fit."""
        return {"padded_steps": self.padded_steps, "ragged_steps": self.ragged_steps}

    def _padded(self) -> Tensor:
        """The step on the molecules of ``self._rows``: nothing here may depend on anything but tensors."""
        assert self._part_budget is not None
        atoms = gather(self.data.atoms_per_graph, self._rows).sum()
        counts = Counts(float(len(self._rows)), atoms)
        self.optimizer.zero_grad(set_to_none=True)
        terms: dict[str, Tensor] = {}
        for rows in self._rows.view(self.micro_batches, -1):
            batch, labels = self.data.padded_batch(rows, self._part_budget, self._reach)
            for name, value in self._accumulate(batch, labels, counts).items():
                terms[name] = terms[name] + value if name in terms else value
        terms = self._finish(terms)
        self._names = list(terms)
        return torch.stack([value.double() for value in terms.values()])

    def _prepare_optimizer(self, *_: Any) -> None:
        """Let the optimizer keep everything on the device, its learning rates and counts too."""
        self._replay.reset()
        device = self.data.device
        self._rates = []
        for group in self._base.param_groups:
            if "capturable" not in group:
                raise InputError(
                    f"training: optimizer {type(self._base).__name__} cannot be recorded as a CUDA graph; "
                    "use Adam or AdamW, or step_mode: eager"
                )
            group.update({name: value for name, value in _RECORDABLE.items() if name in group})
            self._rates.append(torch.as_tensor(group["lr"], dtype=torch.float32).to(device, copy=True))
            group["lr"] = self._rates[-1]
        # Its warning that steps run unrecorded would come at the warm-up.
        self._base._warned_capturable_if_run_uncaptured = True
        for state in self._base.state.values():
            if isinstance(count := state.get("step"), Tensor):
                state["step"] = count.to(device)

    def _take_rates(self) -> None:
        """Move learning rates that were set by assignment into the tensors that the recording reads."""
        for group, rate in zip(self._base.param_groups, self._rates, strict=False):
            if group["lr"] is not rate:
                if isinstance(group["lr"], Tensor):
                    rate.copy_(group["lr"], non_blocking=True)
                else:
                    rate.fill_(group["lr"])
                group["lr"] = rate


class CompiledStep(CapturedStep):
    """A captured step whose energy and forces are traced and compiled.

    Compilation takes up to a minute per model; where it fails, the step runs uncompiled and says so.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        """As :class:`CapturedStep`."""
        super().__init__(*args, **options)
        self.traced = TracedForces(self.model)

    def energy_and_forces(self, batch: GraphBatch) -> tuple[Tensor, Tensor | None]:
        """Energy (n_graphs,), eV, and forces (n_atoms, 3), eV/Å, or None for a loss without forces."""
        if batch.is_padded and self.loss.needs_forces:
            return self.traced(batch)
        return super().energy_and_forces(batch)


class CapturedForces:
    """Energy and forces of the same molecules at new positions, recorded as a CUDA graph: for molecular dynamics.

    The edges are those of the template, so it should have all pairs of each molecule (``make_batch`` with cutoff None):
    the models' cutoffs are smooth, and pairs may then move in and out of them.
    """

    def __init__(self, model: AtomisticModel, template: GraphBatch, compiled: bool = False) -> None:
        """Prepare.

        Args:
            model: on the template's device; its weights may change in place later.
            template: the molecules, their graph, and the type of the positions.
            compiled: also trace and compile the model for this shape.
        """
        self.model = model
        self._positions = template.positions.detach().clone()
        self._batch = template.with_positions(self._positions)
        self._forces = TracedForces(model, create_graph=False) if compiled else model.energy_and_forces
        self._replay = Replay(self._run, template.positions.device, f"{type(model).__name__} inference")

    def _run(self) -> tuple[Tensor, Tensor]:
        energy, forces = self._forces(self._batch)
        return energy.detach(), forces.detach()

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Energy (n_graphs,), eV, and forces (n_atoms, 3), eV/Å, at ``positions`` (n_atoms, 3), Å.

        Raises:
            InputError: positions of another shape than the template's.
        """
        if positions.shape != self._positions.shape:
            raise InputError(
                f"positions of shape {tuple(positions.shape)} for {self._batch.n_atoms} atoms; "
                f"expected {tuple(self._positions.shape)}, or make a new template"
            )
        self._positions.copy_(positions)
        energy, forces = self._replay()
        # A recording's own tensors are overwritten by the next call.
        return energy.clone(), forces.clone()
