"""The OpenVINO runtime on a stateful model. MODEL is a directory from convert_openvino.py."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import engine_process


def keep_last_position(model: Any) -> None:
    """Cut lm_head's input to the last position, as openvino-genai does: other scores go unused."""
    import numpy as np
    from openvino import opset13

    result = next(
        result
        for result in model.get_results()
        if "logits" in result.output(0).get_names() | result.input_value(0).get_names()
    )
    node = result.input_value(0).get_node()
    while node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node()
    begin, end, step, axis = (opset13.constant(np.array([n])) for n in (-1, 2**31 - 1, 1, 1))
    last = opset13.slice(node.input_value(0), begin, end, step, axis)
    node.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


class OpenVino:
    """A compiled model, which keeps keys and values inside, and the number of ids it has read."""

    def __init__(self, path: str, threads: int) -> None:
        import openvino

        self._path = Path(path)
        core = openvino.Core()
        model = core.read_model(str(self._path / "openvino_model.xml"))
        keep_last_position(model)
        hints = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        compiled = core.compile_model(model, "CPU", hints)
        self._request = compiled.create_infer_request()
        self._inputs = {name for port in compiled.inputs for name in port.get_names()}
        self._n_past = 0

    def forget(self) -> None:
        self._request.reset_state()
        self._n_past = 0

    def scores(self, ids: list[int]) -> Any:
        import numpy as np

        n_all = self._n_past + len(ids)
        inputs = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, n_all), np.int64),
            "position_ids": np.arange(self._n_past, n_all, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        self._request.infer(
            {name: inputs[name] for name in self._inputs & inputs.keys()}, share_inputs=True
        )
        self._n_past = n_all
        return self._request.get_tensor("logits").data[0, -1]

    def describe(self) -> dict[str, object]:
        """With all matrices in 8 bits: the embedding is as large as lm_head."""
        shape = json.loads((self._path / "config.json").read_text())
        layers = 12 * shape["n_layer"] * shape["n_embd"] ** 2
        lm_head = shape["n_embd"] * shape["vocab_size"]
        file_bytes = (self._path / "openvino_model.bin").stat().st_size
        return {
            "touched_bytes": round(file_bytes * (layers + lm_head) / (layers + 2 * lm_head)),
            "file_bytes": file_bytes,
            "bits_per_weight": 8 * file_bytes / (layers + 2 * lm_head),
            "version": f"openvino {importlib.metadata.version('openvino')}",
        }


def load(path: str, format: str, threads: int) -> OpenVino:
    return OpenVino(path, threads)


if __name__ == "__main__":
    engine_process.main(load)
