"""A known model that is not on this machine -> the error that says so, with the way to it."""

from codegen_cli.hub.stored import cache as hub_cache
from codegen_cli.models.registry import KnownModel, models_dir_problem, name_with_format
from quantize.files.errors import UserError


def not_here(model: KnownModel, *, is_source: bool = False) -> UserError:
    """Return the error for a model that is not here, as far as one sees.

    is_source  it was to be packed: then its checkpoint is all that is missing
    """
    name, format = model.name, model.format
    message = f"{name_with_format(name, format) if format else name} is not on this machine"
    steps = [] if hub_cache.whole_checkpoint(model.entry) else [f"codegen download {name}"]
    if not is_source:
        steps.append(f"codegen quantize {name}{f' --format {format}' if format else ''}")
    cure = " && ".join(steps)
    found = (models_dir_problem(), hub_cache.problem_of(model.entry))
    if problems := [problem for problem in found if problem]:
        seen = "; ".join(problem.message for problem in problems)
        message = f"{message}, as far as can be seen: {seen}"
        hints = dict.fromkeys(problem.hint for problem in problems)
        cure = f"{' '.join(hints)} Then: {cure}"
    return UserError(message, cure)
