"""What a worker's end is put into."""

import pytest

from evalscope_evalflow.run.worker_process import data_hint


@pytest.mark.parametrize(
    "message",
    [
        "_DownloadDeadlineError: [E1001] \u4e0b\u8f7d\u603b\u65f6\u9650\u5df2\u8017\u5c3d",
        "ConnectionError: Couldn't reach 'openai/gsm8k' on the Hub (LocalEntryNotFoundError)",
        "HTTPSConnectionPool(host='hub.example', port=443): Max retries exceeded with url: /api/datasets",
    ],
)
def test_data_that_cannot_be_downloaded_is_told_what_to_do_about(message):
    assert "dataset_args.gsm8k.local_path" in data_hint(message, "gsm8k")


@pytest.mark.parametrize("message", ["KeyError: 'answer'", "FileNotFoundError: [Errno 2] No such file: 'a.jsonl'"])
def test_other_errors_are_left_as_they_are(message):
    assert data_hint(message) == ""
