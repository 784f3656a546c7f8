# What the forecast is asked about.


def forecast_targets():
    """Targets of the forecast, as given by --config 'forecast_targets=[…]'; none: those of a run without a target."""
    asked = config.get("forecast_targets") or []
    asked = [asked] if isinstance(asked, str) else asked
    if not isinstance(asked, list) or not all(isinstance(each, str) for each in asked):
        raise WorkflowError(
            f"--config forecast_targets: expected a list of rules or files, found {asked!r}"
        )
    return asked
