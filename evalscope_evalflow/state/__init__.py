"""What a run folder holds: formats, readers and writers of run.json, cells.json, events.jsonl and failures.jsonl."""
