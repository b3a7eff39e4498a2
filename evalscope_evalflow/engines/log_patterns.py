"""Start failures that several engines tell in the same words, as they stand on argparse, Transformers and PyTorch."""

from __future__ import annotations

from evalscope_evalflow.engines.base import LogPattern

REJECTED = r"error: (unrecognized arguments: .+|argument \S+: .+|the following arguments are required: .+)"
WHERE_IS_IT = (
    LogPattern(
        r"The repository (\S+) (?:.+ )?contains custom code which must be executed",
        "the checkpoint {0} brings code of its own, which the engine runs only if you say so",
        "Read it. If you trust it: deploy.extra_args: [--trust-remote-code].",
    ),
    LogPattern(
        r"(?:LocalEntryNotFoundError|OfflineModeIsEnabled): (.+)",
        "the model is not on this machine, and the hub cannot be asked: {0}",
        "Download it first (`hf download NAME`), or give the checkpoint's folder.",
    ),
    LogPattern(
        r"(?:Repo id must be in the form .+?: |Repo id must use .+?: |Incorrect path_or_model_id: )('.+?')",
        "the path {0} does not exist",
        "Give the checkpoint's folder.",
    ),
    LogPattern(
        r"Invalid repository ID or local directory specified: ('.+?')",
        "{0} is not a checkpoint: it has no config.json that can be read",
        "Give the folder that holds config.json and the weights.",
    ),
    LogPattern(
        r"(model type `.+?` but Transformers does not recognize|Model architectures \[.+?\] are not supported"
        r"|.+ has no vLLM implementation(?!, falling back))",
        "this engine cannot run the model: {0}",
        "Upgrade the engine in its environment.",
    ),
)
PORT_TAKEN = LogPattern(
    r"Errno 98|[Aa]ddress already in use|Port \d+ is not available|Port is already in use|couldn't bind HTTP server",
    "the port is taken",
    "Choose another port.",
    retryable=True,
)
NO_DEVICE = LogPattern(
    r"(No CUDA GPUs are available|Found no NVIDIA driver.*|Failed to infer device type)",
    "the engine finds no device that it can use: {0}",
    "Check the driver and `devices`; for a machine without GPU, install vLLM's CPU build.",
)
