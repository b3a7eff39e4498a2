"""Which options and environment variables of our engines are known not to affect the text that they answer.

Log levels, cache folders, addresses and shares of memory do not. Those that share the work out over devices or steps
change it only as another batch size or device would: they are written down with the answers, and are no obstacle to
resuming. All others count. `*` stands for any characters.
"""

from __future__ import annotations

# Whatever the engine: caches, logs, networks, devices and threads.
VARIABLES = (
    "CUDA_CACHE_*", "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES", "DO_NOT_TRACK", "FLASHINFER_WORKSPACE_BASE", "GLOO_*", "HF_DATASETS_CACHE",
    "HF_DATASETS_OFFLINE", "HF_ENDPOINT", "HF_HOME", "HF_HUB_*", "HF_TOKEN", "HF_TOKEN_PATH",
    "HUGGINGFACE_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN", "MKL_NUM_THREADS", "MODELSCOPE_CACHE", "NCCL_*",
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONUNBUFFERED",
    "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "RAY_*", "TEMP", "TMP", "TMPDIR", "TOKENIZERS_PARALLELISM",
    "TORCHINDUCTOR_CACHE_DIR", "TORCH_HOME", "TQDM_DISABLE", "TRANSFORMERS_CACHE", "TRANSFORMERS_OFFLINE",
    "TRANSFORMERS_VERBOSITY", "TRITON_CACHE_DIR", "UCX_*", "XDG_CACHE_HOME", "all_proxy", "http_proxy", "https_proxy",
    "no_proxy", "ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_DIR", "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
)  # fmt: skip

VLLM_OPTIONS = (
    "--aggregate-engine-logging", "--allow-credentials", "--allowed-headers", "--allowed-local-media-path",
    "--allowed-media-domains", "--allowed-methods", "--allowed-origins", "--api-server-count", "--cudagraph-metrics",
    "--collect-detailed-traces", "--cpu-offload-gb", "--custom-histogram-buckets", "--device-memory-utilization",
    "--disable-access-log-for-endpoints", "--disable-fastapi-docs", "--disable-log-requests", "--disable-log-stats",
    "--disable-uvicorn-access-log", "--distributed-timeout-seconds", "--download-dir", "--enable-log-deltas",
    "--enable-log-outputs", "--enable-log-requests", "--enable-logging-iteration-details", "--enable-mfu-metrics",
    "--enable-offline-docs", "--enable-per-request-metrics", "--enable-request-id-headers",
    "--enable-server-load-tracking", "--gpu-memory-utilization", "--h11-*", "--kv-cache-memory-bytes",
    "--kv-cache-metrics*", "--log-config-file", "--log-error-stack", "--log-level", "--logging-config",
    "--max-log-len", "--max-parallel-loading-workers", "--no-disable-uvicorn-access-log", "--no-enable-log-outputs",
    "--no-enable-log-requests", "--no-use-tqdm-on-load", "--num-gpu-blocks-override", "--otlp-traces-endpoint",
    "--profiler-config", "--safetensors-load-strategy", "--safetensors-prefetch-*", "--show-hidden-metrics-*",
    "--shutdown-timeout", "--sse-keep-alive-interval", "--ssl-*", "--swap-space", "--use-tqdm-on-load",
    "--uvicorn-log-level",
)  # fmt: skip
VLLM_PARALLEL = (
    "--all2all-backend", "--async-scheduling", "--block-size", "--cpu-distributed-timeout-seconds",
    "--data-parallel-*", "--disable-custom-all-reduce", "--distributed-executor-backend",
    "--enable-chunked-prefill", "--enable-expert-parallel", "--enable-prefix-caching", "--long-prefill-*",
    "--max-num-active-seqs", "--max-num-batched-tokens", "--max-num-queued-*", "--max-num-scheduled-tokens",
    "--no-async-scheduling", "--no-enable-chunked-prefill", "--no-enable-prefix-caching", "--numa-bind*",
    "--pipeline-parallel-size", "--prefix-caching-hash-algo", "--scheduling-policy", "--stream-interval",
)  # fmt: skip
VLLM_VARIABLES = (
    "VLLM_ASSETS_CACHE*", "VLLM_CACHE_ROOT", "VLLM_CONFIGURE_LOGGING", "VLLM_CONFIG_ROOT", "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_CPU_NUM_OF_RESERVED_CPU", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_DEBUG_*", "VLLM_DO_NOT_TRACK",
    "VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_HOST_IP", "VLLM_HTTP_*", "VLLM_IMAGE_FETCH_TIMEOUT", "VLLM_KEEP_ALIVE*",
    "VLLM_LOGGING_*", "VLLM_LOG_*", "VLLM_LOOPBACK_IP", "VLLM_NO_USAGE_STATS", "VLLM_PORT", "VLLM_RPC_*",
    "VLLM_SLEEP_WHEN_IDLE", "VLLM_TORCH_PROFILER_*", "VLLM_TRACE_FUNCTION", "VLLM_USAGE_*", "VLLM_*_TIMEOUT*",
    "VLLM_WORKER_MULTIPROC_METHOD",
)  # fmt: skip

LMDEPLOY_OPTIONS = (
    "--allow-credentials", "--allow-headers", "--allow-methods", "--allow-origins", "--allow-terminate-by-client",
    "--allowed-media-domains", "--cache-max-entry-count", "--disable-fastapi-docs", "--disable-metrics",
    "--download-dir", "--enable-metrics", "--log-level", "--max-log-len", "--num-gpu-blocks", "--ssl",
)  # fmt: skip
LMDEPLOY_PARALLEL = (
    "--cache-block-seq-len", "--communicator", "--cp", "--distributed-executor-backend", "--enable-prefix-caching",
    "--ep", "--kernel-block-size", "--max-concurrent-requests", "--max-prefill-iters", "--max-prefill-token-num",
    "--num-tokens-per-iter", "--vision-max-batch-size",
)  # fmt: skip
LMDEPLOY_VARIABLES = ("LMDEPLOY_LOG_*", "LMDEPLOY_*_TIMEOUT*", "TM_LOG_LEVEL")

SGLANG_OPTIONS = (
    "--bucket-*", "--cpu-offload-gb", "--crash-dump-folder", "--decode-log-interval", "--dist-timeout",
    "--download-dir", "--enable-cache-report", "--enable-http2", "--enable-metrics*", "--enable-mfu-metrics",
    "--enable-request-time-stats-logging", "--enable-trace", "--export-metrics-*", "--extra-metric-labels",
    "--fastapi-root-path", "--file-storage-path", "--gc-*", "--generation-tokens-buckets", "--http2-*",
    "--log-level", "--log-level-http", "--log-requests*", "--max-total-tokens", "--mem-fraction-static",
    "--nccl-port", "--otlp-*", "--prompt-tokens-buckets", "--show-time-cost", "--skip-server-warmup",
    "--sleep-on-idle", "--soft-watchdog-timeout", "--ssl-*", "--tokenizer-metrics-*", "--trace-modules",
    "--uvicorn-access-log-exclude-prefixes", "--watchdog-timeout", "--weight-loader-disable-mmap",
    "--weight-loader-drop-cache-after-load", "--weight-loader-prefetch-*",
)  # fmt: skip
SGLANG_PARALLEL = (
    "--base-gpu-id", "--chunked-prefill-size", "--detokenizer-worker-num", "--disable-custom-all-reduce",
    "--disable-overlap-schedule", "--disable-radix-cache", "--enable-mixed-chunk", "--ep-size", "--gpu-id-step",
    "--load-balance-method", "--max-prefill-tokens", "--max-queued-requests", "--num-continuous-decode-steps",
    "--numa-node", "--page-size", "--pp-size", "--prefill-max-requests", "--schedule-*", "--scheduler-recv-interval",
    "--stream-interval", "--tokenizer-worker-num",
)  # fmt: skip
SGLANG_VARIABLES = (
    "SGLANG_CACHE_DIR", "SGLANG_HOST_IP", "SGLANG_LOG_*", "SGLANG_LOGGING_*", "SGLANG_PORT",
    "SGLANG_TORCH_PROFILER_DIR", "SGLANG_*_TIMEOUT*",
)  # fmt: skip

LLAMACPP_OPTIONS = ("--n-gpu-layers", "--threads")
LLAMACPP_VARIABLES = ("LLAMA_CACHE", "LLAMA_LOG_*")
