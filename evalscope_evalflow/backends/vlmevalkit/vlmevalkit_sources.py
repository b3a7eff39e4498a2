"""The places of VLMEvalKit that are replaced or relied on, with the sources that were tested."""

from __future__ import annotations

from evalscope_evalflow.backends.known_sources import Places

# By file and name: hashes of the source (`source_hash`), with the versions of ms-vlmeval that have it.
PLACES: Places = {
    "run.py:main": {"85c48c696e64": "0.0.19", "780059867a30": "0.0.20"},
    "run.py:build_model_from_config": {"e456bb8995b1": "0.0.19, 0.0.20"},
    "inference.py:infer_data_api": {"5e65efbe5a90": "0.0.19", "cd984caf75ad": "0.0.20"},
    "inference.py:infer_data": {"32419e207e24": "0.0.19", "37b4789ed1b7": "0.0.20"},
    "inference.py:infer_data_job": {"5680e3d34338": "0.0.19", "8ecc4bd8ffe2": "0.0.20"},
    "inference_mt.py:chat_mt": {"2c9515af2142": "0.0.19, 0.0.20"},
    "inference_mt.py:infer_data_api": {"05a62b155f18": "0.0.19", "40577ed452bc": "0.0.20"},
    "inference_mt.py:infer_data": {"41d4e149a013": "0.0.19", "e940e177cdcf": "0.0.20"},
    "inference_mt.py:infer_data_job_mt": {"c774fce5698a": "0.0.19", "940dee586f7f": "0.0.20"},
    "inference_video.py:infer_data_job_video": {"b27a8847d69c": "0.0.19", "305e51993923": "0.0.20"},
    "utils/mp_util.py:track_progress_rich": {"5f8927f8108a": "0.0.19", "eda282d73404": "0.0.20"},
    "smp/file.py:load": {"6f261aee0e2e": "0.0.19, 0.0.20"},
    "smp/file.py:dump": {"8dd20ecaf12a": "0.0.19", "29a474fd0e51": "0.0.20"},
    "smp/file.py:prepare_reuse_files": {"8200e46e0d6d": "0.0.19", "3d050408bba9": "0.0.20"},
    "smp/file.py:get_pred_file_path": {"0a9bbb7cc29a": "0.0.19, 0.0.20"},
    "smp/file.py:LMUDataRoot": {"e7acdfc2a764": "0.0.19, 0.0.20"},
    "dataset/__init__.py:build_dataset": {"69e69915438f": "0.0.19", "24e8b545e316": "0.0.20"},
    "dataset/image_base.py:ImageBaseDataset": {"16da8de38b60": "0.0.19", "dc021d37bdfc": "0.0.20"},
    "dataset/utils/judge_util.py:build_judge": {"7609be58070b": "0.0.19", "1baad731c390": "0.0.20"},
    "dataset/utils/multiple_choice.py:extract_answer_from_item": {"1bada1050adf": "0.0.19", "f39349e03661": "0.0.20"},
    "dataset/utils/multiple_choice.py:eval_vanilla": {"2effca573a83": "0.0.19, 0.0.20"},
    "dataset/utils/multiple_choice.py:mcq_vanilla_eval": {"b7e21bf96f2e": "0.0.19, 0.0.20"},
    "dataset/utils/wemath.py:evaluate_compute_final_scores": {"b1c8790ea2fe": "0.0.19, 0.0.20"},
    "dataset/utils/wemath.py:evaluate_update_main_results_df": {"5a3c8349a1fc": "0.0.19, 0.0.20"},
    "api/base.py:BaseAPI.__init__": {"6cb8d6038717": "0.0.19", "c1493ddb7bf2": "0.0.20"},
    "api/base.py:BaseAPI.check_content": {"4119aaccfc87": "0.0.19, 0.0.20"},
    "api/base.py:BaseAPI.preproc_content": {"4c25d466a585": "0.0.19, 0.0.20"},
    "api/gpt.py:OpenAIWrapper.prepare_inputs": {"3f045085deb4": "0.0.19, 0.0.20"},
    "api/gpt.py:OpenAIWrapper.prepare_itlist": {"0102aff27f60": "0.0.19", "152ae761b848": "0.0.20"},
    "api/gpt.py:CustomAPIModel": {"fd048133db43": "0.0.19, 0.0.20"},
}
VERSIONS = ("0.0.19", "0.0.20")
