"""The data flow as a list: a module imports only what stands above it; libraries have one door."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MODULES = """
quantize.errors
quantize.input_file
quantize.json_object
quantize.config
quantize.source_tensor
quantize.inert_pickle
quantize.torch_zip
quantize.safetensors_map
quantize.tensor_map
quantize.added_tokens
quantize.tokenizer_json
quantize.tokenizer_files
quantize.checkpoint
quantize.packed_header
quantize.blocks
quantize.layout
quantize.scale_search
quantize.packed_file
quantize.whole_file
quantize.packed_writer
quantize.quantize_model
quantize
codegen_cli.deadline
codegen_cli.child_process
codegen_cli.redirection
codegen_cli.terminal
codegen_cli.streams
codegen_cli.console
codegen_cli.tables
codegen_cli.drawing
codegen_cli.store
codegen_cli.store.paths
codegen_cli.store.settings
codegen_cli.store.registry
codegen_cli.store.local_models
codegen_cli.store.checkpoint_files
codegen_cli.store.content_hash
codegen_cli.store.hub_cache
codegen_cli.store.hub_unfinished
codegen_cli.store.leftovers
codegen_cli.store.checkpoint_hashes
codegen_cli.store.verification
codegen_cli.store.hub_settings
codegen_cli.store.hub_errors
codegen_cli.store.hub_client
codegen_cli.store.download
codegen_cli.store.removal
codegen_cli.store.model_default
codegen_cli.store.packing
codegen_cli.text
codegen_cli.text.tokenizer_file
codegen_cli.text.token_text
codegen_cli.text.tokenizer_options
codegen_cli.text.vocabulary
codegen_cli.text.vocabulary_files
codegen_cli.text.tokenizer
codegen_cli.text.text_stream
codegen_cli.text.prompt_input
codegen_cli.text.prompt
codegen_cli.text.prompt_process
codegen_cli.engine
codegen_cli.engine.allocator
codegen_cli.engine.system_files
codegen_cli.engine.cores
codegen_cli.engine.cpu
codegen_cli.kernels
codegen_cli.kernels.fp16
codegen_cli.kernels.vectors
codegen_cli.kernels.dot_product
codegen_cli.kernels.threading_primitives
codegen_cli.kernels.matmul
codegen_cli.kernels.pointwise
codegen_cli.kernels.activations
codegen_cli.kernels.attention
codegen_cli.kernels.step_table
codegen_cli.kernels.step
codegen_cli.engine.team_size
codegen_cli.engine.threads
codegen_cli.engine.object_file
codegen_cli.engine.linker
codegen_cli.engine.kernel_compiler
codegen_cli.engine.kernel_directory
codegen_cli.engine.kernel_cache
codegen_cli.engine.kv_cache
codegen_cli.engine.buffers
codegen_cli.engine.memory
codegen_cli.reports
codegen_cli.reports.inventory
codegen_cli.reports.model_views
codegen_cli.reports.kernel_delay
codegen_cli.model_choice
codegen_cli.engine.weights
codegen_cli.engine.model
codegen_cli.model_loading
codegen_cli.decoding
codegen_cli.decoding.random_draws
codegen_cli.decoding.sampler
codegen_cli.decoding.open_method
codegen_cli.decoding.stopping
codegen_cli.decoding.option_values
codegen_cli.decoding.options
codegen_cli.decoding.summary
codegen_cli.decoding.phase_times
codegen_cli.decoding.prompt_lookup
codegen_cli.decoding.drafter
codegen_cli.decoding.id_stream
codegen_cli.decoding.generate
codegen_cli.analysis
codegen_cli.analysis.windows
codegen_cli.analysis.likelihood
codegen_cli.analysis.embedding
codegen_cli.analysis.disturbance
codegen_cli.analysis.token_bytes
codegen_cli.analysis.read_limit
codegen_cli.analysis.speed
codegen_cli.analysis.forecast
codegen_cli.language_model
codegen_cli
codegen_cli.reports.openai_json
codegen_cli.reports.completion
codegen_cli.reports.token_table
codegen_cli.reports.score_report
codegen_cli.reports.embed_report
codegen_cli.reports.bench_report
codegen_cli.analysis.checkup
codegen_cli.reports.doctor_report
codegen_cli.commands
codegen_cli.commands.model_names
codegen_cli.commands.help_text
codegen_cli.commands.options
codegen_cli.commands.completion_script
codegen_cli.commands.overwriting
codegen_cli.commands.complete
codegen_cli.commands.score
codegen_cli.commands.embed
codegen_cli.commands.download
codegen_cli.commands.quantize
codegen_cli.commands.model_removal
codegen_cli.commands.models
codegen_cli.commands.doctor
codegen_cli.commands.bench
codegen_cli.commands.app
codegen_cli.__main__
""".split()

# Who may import a library; a folder stands for all its modules.
DOORS = {
    "rich": ["codegen_cli.drawing"],
    "typer": ["codegen_cli.commands"],
    "huggingface_hub": ["codegen_cli.store.hub_client", "codegen_cli.store.hub_errors"],
    "tokenizers": ["codegen_cli.text.tokenizer"],
    "platformdirs": ["codegen_cli.store.paths"],
    "filelock": [
        "codegen_cli.store.settings",
        "codegen_cli.store.hub_unfinished",
        "codegen_cli.engine.kernel_directory",
    ],
    "numba": ["codegen_cli.kernels", "quantize.scale_search"],
    "llvmlite": [
        "codegen_cli.kernels",
        "codegen_cli.engine.cpu",
        "codegen_cli.engine.kernel_compiler",
        "codegen_cli.engine.linker",
    ],
    "safetensors": [],
    "torch": [],
    "transformers": [],
}


def path_of(module):
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imports_of(module):
    """Names of all modules that a module imports; `from a import b` names a.b if that is one."""
    names = set()
    for node in ast.walk(ast.parse(path_of(module).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.add(whole if whole in MODULES else node.module)
    return names


def test_the_list_names_every_module():
    found = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in ("quantize", "codegen_cli")
        for path in (ROOT / package).rglob("*.py")
    }
    assert found == set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_stands_above_it(module):
    above = set(MODULES[: MODULES.index(module)])
    ours = {
        name for name in imports_of(module) if name.split(".")[0] in ("quantize", "codegen_cli")
    }
    assert ours <= above


@pytest.mark.parametrize("library", DOORS)
def test_a_library_is_imported_only_through_its_door(library):
    users = [
        module
        for module in MODULES
        if any(name.split(".")[0] == library for name in imports_of(module))
    ]
    doors = DOORS[library]
    assert [user for user in users if not any(f"{user}.".startswith(f"{d}.") for d in doors)] == []


def test_no_flag_lets_the_compiler_change_a_sum():
    flags = re.compile(r"fastmath=|reassoc\b|contract=|\bafn\b|parallel=True")
    for module in MODULES:
        assert not flags.search(path_of(module).read_text()), module
