"""Scoring: `samples.jsonl` in, `report.json` out (`evaluate.evaluate`); the metrics one by one are in `metrics`.

Nothing heavy is imported here; MAUVE needs the extra `ladle[mauve]` and is imported when it is asked for.
"""
