"""Shell completion of -m: the beginning of a name -> the models' names, without a heavy import."""


def model_names(incomplete: str) -> list[str]:
    """Return the names of models.toml and of packed models that begin as `incomplete` does.

    After a colon, the formats that the model is packed in. Nothing for what cannot be looked up: a
    shell shows no errors, and goes on with file names.
    """
    from codegen_cli.hub.entries import entries
    from codegen_cli.models.local_models import local_files
    from quantize.files.errors import UserError

    try:
        files = local_files()
    except UserError:
        files = []
    names = [entry.name for entry in entries()] + [file.name for file in files]
    if ":" in incomplete:
        names = [f"{file.name}:{file.format}" for file in files]
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]
