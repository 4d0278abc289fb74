"""Shell completion of --device: what a GPU can be called; which there are would take seconds."""


def device_names(incomplete: str) -> list[str]:
    """Return the kinds of devices that begin as `incomplete` does."""
    from codegen_cli.contract.device_name import KINDS

    return [kind for kind in KINDS if kind.startswith(incomplete)]
