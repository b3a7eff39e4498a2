"""Starts llama.cpp's native server in this process. Run by its path, with an interpreter that has xllamacpp.

The key comes from the environment: an argument could be read by every user of the machine.
"""

from __future__ import annotations

import argparse
import os
import signal


def main() -> None:
    parser = argparse.ArgumentParser(description="llama.cpp's server, by xllamacpp")
    parser.add_argument("--model", required=True, help=".gguf file")
    parser.add_argument("--alias", required=True, help="served model name")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--context", type=int, required=True, help="tokens a sequence")
    parser.add_argument("--parallel", type=int, default=4, help="sequences served at once")
    cores = os.cpu_count() or 1
    # They spin, so a core is left to others, unless that would leave one thread alone: measured 25 % slower.
    parser.add_argument("--threads", type=int, default=min(cores, max(2, cores - 1)), help="CPU threads")
    parser.add_argument("--n-gpu-layers", type=int, default=None, help="layers on the GPU, where the build has one")
    parser.add_argument("--chat-template-file", default=None, help="Jinja file")
    parser.add_argument("--lora", action="append", default=[], help=".gguf file of an adapter")
    args = parser.parse_args()

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # inherited by llama.cpp's threads
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = args.model
    if args.lora:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in args.lora]
    params.model_alias = [args.alias]
    params.hostnames = [args.host]
    params.port = args.port
    params.n_parallel = args.parallel
    params.n_ctx = args.context * args.parallel
    params.kv_unified = False  # every sequence has its own context: none is cut short by the others
    params.cpuparams.n_threads = args.threads
    params.cpuparams_batch.n_threads = args.threads
    params.endpoint_metrics = True
    params.ui = False
    key = os.environ.pop("EVALFLOW_ENGINE_API_KEY", "")
    if key:
        params.api_keys = [key]
    if args.n_gpu_layers is not None:
        params.n_gpu_layers = args.n_gpu_layers
    if args.chat_template_file:
        with open(args.chat_template_file, encoding="utf-8") as file:
            params.chat_template = file.read()
    server = xllamacpp.Server(params)
    print("listening on", server.listening_address, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    os._exit(0)  # llama.cpp's own teardown waits for requests in flight


if __name__ == "__main__":
    main()
