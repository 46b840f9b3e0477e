"""What a run leaves behind: a result in JSON, a trained prompt in safetensors, both loaded back; and curves made of
results."""

from soft_prompts.lazily import exports

__getattr__ = exports(
    __name__,
    {
        "Curve": "curve",
        "HeldOut": "record",
        "Result": "record",
        "load_prompt": "snapshot",
        "load_results": "record",
        "result_files": "record",
        "save_prompt": "snapshot",
    },
)
