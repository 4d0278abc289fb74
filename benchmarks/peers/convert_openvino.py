"""A checkpoint -> an OpenVINO model in 8 bits; runs in the openvino venv.

python convert_openvino.py CHECKPOINT DIRECTORY
"""

import sys

from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig


def main(checkpoint: str, directory: str) -> None:
    model = OVModelForCausalLM.from_pretrained(
        checkpoint,
        export=True,
        stateful=True,
        compile=False,
        quantization_config=OVWeightQuantizationConfig(bits=8, sym=False),
    )
    model.save_pretrained(directory)


if __name__ == "__main__":
    main(*sys.argv[1:])
