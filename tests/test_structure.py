"""The data flow as a list: a module imports only what stands above it, and so does a folder."""

import ast
import re
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MODULES = """
quantize.files
quantize.files.errors
quantize.files.input_file
quantize.files.json_object
quantize.files.partial_file
quantize.files.whole_file
quantize.processes
quantize.processes.clean_process
quantize.containers
quantize.containers.source_tensor
quantize.containers.inert_pickle
quantize.containers.torch_zip
quantize.containers.safetensors_map
quantize.description
quantize.description.formats
quantize.description.config
quantize.description.tensor_map
quantize.checkpoint
quantize.checkpoint.added_tokens
quantize.checkpoint.tokenizer_json
quantize.checkpoint.tokenizer_files
quantize.checkpoint.reading
quantize.rounding
quantize.rounding.groups
quantize.rounding.lanes
quantize.rounding.scale_search
quantize.rounding.band_kernels
quantize.rounding.rounding_process
quantize.packed
quantize.packed.packed_header
quantize.packed.layout
quantize.packed.packed_file
quantize.packed.container_judge
quantize.packed.journal
quantize.packed.payload_writer
quantize.packed.packed_writer
quantize.packed.sizes
quantize.pack_tensor
quantize.quantize_model
quantize
codegen_cli.contract
codegen_cli.contract.deadline
codegen_cli.contract.device_name
codegen_cli.contract.version
codegen_cli.contract.delay
codegen_cli.contract.engine
codegen_cli.contract.cache_checks
codegen_cli.contract.part_checks
codegen_cli.contract.outcomes
codegen_cli.contract.interruption
codegen_cli.contract.stream
codegen_cli.terminal
codegen_cli.terminal.redirection
codegen_cli.terminal.screen
codegen_cli.terminal.streams
codegen_cli.terminal.console
codegen_cli.terminal.tables
codegen_cli.terminal.progress_lines
codegen_cli.terminal.drawing
codegen_cli.machine
codegen_cli.machine.child_process
codegen_cli.machine.places
codegen_cli.machine.closed_directory
codegen_cli.machine.disk_room
codegen_cli.machine.allocator
codegen_cli.machine.system_files
codegen_cli.machine.cores
codegen_cli.machine.arm_features
codegen_cli.machine.cpu
codegen_cli.machine.prefetch
codegen_cli.machine.disk_bytes
codegen_cli.machine.memory
codegen_cli.machine.disturbance
codegen_cli.kernels
codegen_cli.kernels.step_table
codegen_cli.kernels.fp16
codegen_cli.kernels.vector_ir
codegen_cli.kernels.vectors
codegen_cli.kernels.dot_ir
codegen_cli.kernels.group_ir
codegen_cli.kernels.pair_ir
codegen_cli.kernels.block_ir
codegen_cli.kernels.block_product
codegen_cli.kernels.threading_primitives
codegen_cli.kernels.matmul
codegen_cli.kernels.pointwise
codegen_cli.kernels.activations
codegen_cli.kernels.attention
codegen_cli.kernels.likelihood
codegen_cli.kernels.step_arrays
codegen_cli.kernels.pieces
codegen_cli.kernels.step
codegen_cli.engine_cpu
codegen_cli.engine_cpu.compile
codegen_cli.engine_cpu.team_size
codegen_cli.engine_cpu.thread_limit
codegen_cli.engine_cpu.threads
codegen_cli.engine_cpu.compile.object_file
codegen_cli.engine_cpu.compile.linker
codegen_cli.engine_cpu.compile.kernel_compiler
codegen_cli.engine_cpu.compile.compile_process
codegen_cli.engine_cpu.compile.kernel_directory
codegen_cli.engine_cpu.compile.kernel_cache
codegen_cli.engine_cpu.aligned_memory
codegen_cli.engine_cpu.kv_cache
codegen_cli.engine_cpu.buffers
codegen_cli.engine_cpu.weights
codegen_cli.engine_cpu.reading
codegen_cli.engine_cpu.step_plan
codegen_cli.engine_cpu.step_filling
codegen_cli.engine_cpu.log_probabilities
codegen_cli.engine_cpu.step_output
codegen_cli.engine_cpu.numba_engine
codegen_cli.engine_torch
codegen_cli.engine_torch.failures
codegen_cli.engine_torch.compiler_cache
codegen_cli.engine_torch.copy_speed
codegen_cli.engine_torch.devices
codegen_cli.engine_torch.packed_matrix
codegen_cli.engine_torch.triton_product
codegen_cli.engine_torch.kernel_check
codegen_cli.engine_torch.products
codegen_cli.engine_torch.weights
codegen_cli.engine_torch.kv_cache
codegen_cli.engine_torch.placement
codegen_cli.engine_torch.model
codegen_cli.engine_torch.steps
codegen_cli.engine_torch.log_probabilities
codegen_cli.engine_torch.reading
codegen_cli.engine_torch.torch_engine
codegen_cli.engine_torch.opening
codegen_cli.text
codegen_cli.text.tokenizer_file
codegen_cli.text.token_text
codegen_cli.text.tokenizer_options
codegen_cli.text.vocabulary
codegen_cli.text.tokenizer
codegen_cli.text.vocabulary_files
codegen_cli.text.codegen_tokenizer
codegen_cli.text.text_stream
codegen_cli.text.prompt
codegen_cli.text.text_side
codegen_cli.decoding
codegen_cli.decoding.random_draws
codegen_cli.decoding.sampler
codegen_cli.decoding.open_method
codegen_cli.decoding.defaults
codegen_cli.decoding.stopping
codegen_cli.decoding.option_values
codegen_cli.decoding.options
codegen_cli.decoding.sampled_tokens
codegen_cli.decoding.token_likelihoods
codegen_cli.decoding.summary
codegen_cli.decoding.phase_times
codegen_cli.decoding.step_costs
codegen_cli.decoding.prompt_lookup
codegen_cli.decoding.drafter
codegen_cli.decoding.id_stream
codegen_cli.decoding.completion_stream
codegen_cli.decoding.asked_part
codegen_cli.decoding.beginnings
codegen_cli.decoding.running_text
codegen_cli.decoding.scheduler
codegen_cli.scoring
codegen_cli.scoring.windows
codegen_cli.scoring.likelihood
codegen_cli.scoring.embedding
codegen_cli.hub
codegen_cli.hub.stored
codegen_cli.hub.network
codegen_cli.hub.entries
codegen_cli.hub.checkpoint_files
codegen_cli.hub.stored.content_hash
codegen_cli.hub.stored.cache
codegen_cli.hub.stored.blob_lock
codegen_cli.hub.stored.part
codegen_cli.hub.stored.placement
codegen_cli.hub.stored.unfinished
codegen_cli.hub.stored.checkpoint_hashes
codegen_cli.hub.network.settings
codegen_cli.hub.network.failures
codegen_cli.hub.network.errors
codegen_cli.hub.network.ranges
codegen_cli.hub.network.patience
codegen_cli.hub.network.client
codegen_cli.hub.network.client_import
codegen_cli.hub.network.lanes
codegen_cli.hub.network.transfer
codegen_cli.hub.plan
codegen_cli.hub.download
codegen_cli.hub.removal
codegen_cli.models
codegen_cli.models.settings
codegen_cli.models.packed_names
codegen_cli.models.checkpoint_name
codegen_cli.models.registry
codegen_cli.models.local_models
codegen_cli.models.absence
codegen_cli.models.disk_use
codegen_cli.models.leftovers
codegen_cli.models.verification
codegen_cli.models.model_default
codegen_cli.models.packing
codegen_cli.models.passing_checkpoints
codegen_cli.models.download_room
codegen_cli.models.model_choice
codegen_cli.models.memory_need
codegen_cli.models.inventory
codegen_cli.session
codegen_cli.session.kernel_delay
codegen_cli.session.torch_presence
codegen_cli.session.device_choice
codegen_cli.session.engines
codegen_cli.session.one_part
codegen_cli.session.driver
codegen_cli.session.generation
codegen_cli.session.cache_room
codegen_cli.session.many_completions
codegen_cli.session.many_texts
codegen_cli.session.service
codegen_cli.session.language_model
codegen_cli.session.loading
codegen_cli.session.sample
codegen_cli.session.completion_run
codegen_cli.measuring
codegen_cli.measuring.read_limit
codegen_cli.measuring.prefetch_trial
codegen_cli.measuring.speed
codegen_cli.measuring.batch_speed
codegen_cli.measuring.random_weights
codegen_cli.measuring.forecast
codegen_cli.measuring.findings
codegen_cli.measuring.gpus
codegen_cli.measuring.problems
codegen_cli.measuring.checkup
codegen_cli.reports
codegen_cli.reports.model_views
codegen_cli.reports.download_report
codegen_cli.reports.openai_json
codegen_cli.reports.completion
codegen_cli.reports.token_table
codegen_cli.reports.reading
codegen_cli.reports.score_report
codegen_cli.reports.embed_report
codegen_cli.reports.bench_report
codegen_cli.reports.bench_batch_report
codegen_cli.reports.doctor_report
codegen_cli.reports.batch_report
codegen_cli.batch
codegen_cli.batch.bad_line
codegen_cli.batch.settings
codegen_cli.batch.lines
codegen_cli.batch.line_keys
codegen_cli.batch.line
codegen_cli.batch.request_line
codegen_cli.batch.answer_line
codegen_cli.batch.answering
codegen_cli.batch.source
codegen_cli.batch.journal
codegen_cli.batch.answer_file
codegen_cli.batch.job
codegen_cli.batch.opening
codegen_cli.batch.running
codegen_cli.cluster
codegen_cli.cluster.address
codegen_cli.cluster.presence
codegen_cli.cluster.versions
codegen_cli.cluster.model_copy
codegen_cli.cluster.messages
codegen_cli.cluster.pieces
codegen_cli.cluster.tables
codegen_cli.cluster.worker
codegen_cli.cluster.nodes
codegen_cli.cluster.connection
codegen_cli.cluster.dataset
codegen_cli.cluster.ray_process
codegen_cli.cluster.opening
codegen_cli.commands
codegen_cli.commands.device_names
codegen_cli.commands.model_names
codegen_cli.commands.help_text
codegen_cli.commands.options
codegen_cli.commands.prompt_input
codegen_cli.commands.completion_script
codegen_cli.commands.overwriting
codegen_cli.commands.ray_option
codegen_cli.commands.complete
codegen_cli.commands.batch
codegen_cli.commands.score
codegen_cli.commands.embed
codegen_cli.commands.download
codegen_cli.commands.quantize
codegen_cli.commands.model_removal
codegen_cli.commands.models
codegen_cli.commands.doctor
codegen_cli.commands.bench
codegen_cli.commands.app
codegen_cli
codegen_cli.__main__
""".split()

# Low to high; a folder below another counts with it, and a package's root as a folder of its own.
FOLDERS = """
quantize.files
quantize.processes
quantize.containers
quantize.description
quantize.checkpoint
quantize.rounding
quantize.packed
quantize
codegen_cli.contract
codegen_cli.terminal
codegen_cli.machine
codegen_cli.kernels
codegen_cli.engine_cpu
codegen_cli.engine_torch
codegen_cli.text
codegen_cli.decoding
codegen_cli.scoring
codegen_cli.hub
codegen_cli.models
codegen_cli.session
codegen_cli.measuring
codegen_cli.reports
codegen_cli.batch
codegen_cli.cluster
codegen_cli.commands
codegen_cli
""".split()

# Who may import a library; a folder stands for all its modules.
DOORS = {
    "rich": ["codegen_cli.terminal.drawing"],
    "typer": ["codegen_cli.commands"],
    "huggingface_hub": [
        "codegen_cli.hub.network.client",
        "codegen_cli.hub.network.errors",
        "codegen_cli.hub.network.patience",
        "codegen_cli.hub.network.ranges",
    ],
    "tokenizers": ["codegen_cli.text.tokenizer"],
    "platformdirs": ["codegen_cli.machine.places"],
    "filelock": [
        "codegen_cli.models.settings",
        "codegen_cli.hub.stored.blob_lock",
        "codegen_cli.engine_cpu.compile.kernel_directory",
    ],
    "numba": [
        "codegen_cli.kernels",
        "quantize.rounding.lanes",
        "quantize.rounding.scale_search",
    ],
    "llvmlite": [
        "codegen_cli.kernels",
        "codegen_cli.machine.cpu",
        "codegen_cli.engine_cpu.compile.kernel_compiler",
        "codegen_cli.engine_cpu.compile.linker",
        "codegen_cli.measuring.prefetch_trial",
        "quantize.rounding.lanes",
    ],
    "safetensors": ["quantize.packed.container_judge"],
    "torch": ["codegen_cli.engine_torch"],
    "triton": ["codegen_cli.engine_torch.triton_product"],
    "ray": [
        "codegen_cli.cluster.pieces",
        "codegen_cli.cluster.nodes",
        "codegen_cli.cluster.connection",
        "codegen_cli.cluster.dataset",
        "codegen_cli.cluster.ray_process",
    ],
    "pyarrow": ["codegen_cli.cluster.tables", "codegen_cli.cluster.worker"],
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


def folder_of(module):
    return max((each for each in FOLDERS if f"{module}.".startswith(f"{each}.")), key=len)


def test_the_modules_of_a_folder_stand_together():
    """So no folder imports from one that is higher, as no module does."""
    assert [folder for folder, _ in groupby(map(folder_of, MODULES))] == FOLDERS


def test_every_folder_says_what_it_does():
    for folder in FOLDERS:
        assert ast.get_docstring(ast.parse(path_of(folder).read_text())), folder


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
