"""An f16 GGUF -> a quantized one, by llama.cpp itself; runs in the llamacpp venv.

python quantize_gguf.py F16.gguf FILE.gguf Q4_0
"""

import sys

import llama_cpp


def main(source: str, target: str, format: str) -> None:
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{format}")
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), options):
        raise SystemExit(f"llama.cpp could not quantize {source} to {format}")


if __name__ == "__main__":
    main(*sys.argv[1:])
