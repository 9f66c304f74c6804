"""Verb `likelihood`."""

from pathlib import Path
from typing import Any

from ladle.checks import MAX_SEED, check_number, check_whole
from ladle.cli.app import ColumnNames, Decoder, File, Names, OutputFile, Whole, app, log, read_and_say
from ladle.data.columns import Columns
from ladle.data.files import STDIO
from ladle.data.rows import Row, read_and_tell
from ladle.errors import UserError
from ladle.storage.checks import check_writable
from ladle.storage.writing import atomic_json


@app.command(sort_key=5)
def likelihood(
    texts: File,
    /,
    *,
    model: str,
    output: OutputFile | None = None,
    free: bool = False,
    attribute_column: Names = None,
    log_snr: float | None = None,
    draws: Whole = 16,
    decoder: Decoder | None = None,
    seed: Whole = 0,
    batch_size: Whole = 32,
    columns: ColumnNames = None,
) -> None:
    """Say how likely held-out texts are under a model: a bound of their perplexity, with its terms, or its value.

    Of a diffusion it is an upper bound. Of an autoregressive model (`ladle benchmark`, `ladle fit scorer`) it is exact.
    Texts are scored given their labels, attributes and sources, as far as the file and the model have them.

    Args:
        texts: File of texts that the model was not trained on; - is standard input.
        model: A model folder, a shipped model's name, a hub id, or the folder of a rival.
        output: JSON file for the report; - is standard output, and then no table is printed.
        free: Score the texts without any condition.
        attribute_column: Column with the values of the attribute of that name. May be repeated.
        log_snr: Noise level of the latents that the decoder reads. Default: the best for the other half of the texts,
            and the one at which the model's sampler stops.
        draws: Noise levels at which a text's latents are looked at. More draws give smaller errors.
        decoder: The decoder whose words are scored. Default: autoregressive.
        seed: Seed of the first text's random draws; seeds count up from it.
        batch_size: Number of texts scored at once. A smaller number needs less memory.
    """
    check_whole("--batch-size", batch_size)
    check_whole("--draws", draws, 2)
    check_whole("--seed", seed, 0, MAX_SEED)
    log_snr = None if log_snr is None else check_number("--log-snr", log_snr)
    check_writable(output, inputs=(texts,))

    from ladle.baselines.autoregressive import rival_folder
    from ladle.baselines.token_diffusion import RECORD

    columns, taken = columns or Columns(), tuple(attribute_column or ())
    exact, tokens = rival_folder(model), rival_folder(model, RECORD)
    if exact is not None or tokens is not None:
        if log_snr is not None or decoder is not None or taken:
            kind = "a token diffusion" if exact is None else "an autoregressive model, whose likelihood is exact"
            raise UserError(f"{model} is {kind}; leave --log-snr, --decoder and --attribute-column out")
        rows = read_and_tell(texts, columns, log, brief=True)
        if exact is not None:
            report = _of_rival(exact, rows, free, model)
        else:
            assert tokens is not None
            report = _of_tokens(tokens, rows, free, model, seed, draws, batch_size)
    else:
        from ladle.pipeline import LatentDiffusion

        rows = read_and_say(texts, model, columns, attributes=taken)
        loaded = LatentDiffusion.from_pretrained(model)
        for name in taken:
            loaded.conditions.check_attribute(name)
        given: dict[str, Any] = {}
        if not free:
            given["label"] = [row.get("label") for row in rows] if loaded.labels else None
            given["source"] = [row.get("source") for row in rows] if loaded.takes_source else None
            given["attributes"] = {name: [row.get("attributes", {}).get(name) for row in rows] for name in taken}
        report = loaded.likelihood(
            [row["text"] for row in rows], seed=seed, draws=draws, log_snr=log_snr, decoder=decoder,
            batch_size=batch_size, **given,
        )  # fmt: skip
    if output is not None:
        atomic_json(output, report.as_json())
    if output != STDIO:
        print(report.to_table(), end="")


def _of_rival(folder: Path, rows: list[Row], free: bool, name: str) -> Any:
    """The report of an autoregressive model."""
    from ladle.baselines.autoregressive import AutoregressiveModel
    from ladle.baselines.exact_likelihood import exact_likelihood
    from ladle.baselines.inputs import known_conditions

    rival = AutoregressiveModel.from_pretrained(folder)
    given = {} if free else known_conditions(rows, rival.config)
    return exact_likelihood(rival, [row["text"] for row in rows], name=name, **given)


def _of_tokens(folder: Path, rows: list[Row], free: bool, name: str, seed: int, draws: int, batch_size: int) -> Any:
    """The report of a diffusion over tokens."""
    from ladle.baselines.inputs import known_conditions
    from ladle.baselines.token_diffusion import TokenDiffusionModel
    from ladle.baselines.token_likelihood import token_likelihood

    model = TokenDiffusionModel.from_pretrained(folder)
    given: dict[str, Any] = {} if free else known_conditions(rows, model.config)
    texts = [row["text"] for row in rows]
    return token_likelihood(model, texts, name=name, seed=seed, draws=draws, batch_size=batch_size, **given)
