"""Verb `convert`: models from other code."""

from pathlib import Path

from cyclopts import App

from ladle.cli.app import OutputFolder, app

convert = App(name="convert", help="Convert models from other code to Ladle models.", sort_key=10)
app.command(convert)


@convert.command(name="ld4lg")
def convert_ld4lg(
    folder: Path,
    *,
    output: OutputFolder,
    autoencoder: Path | None = None,
    backbone: str | None = None,
    label: list[str] | None = None,
) -> None:
    """Turn a checkpoint of the paper's code (arXiv 2212.09462) into a Ladle model.

    Args:
        folder: The diffusion model's folder, with args.json and model.pt.
        output: Model folder to write.
        autoencoder: Folder of the autoencoder, also with args.json and model.pt. Default: the one in args.json.
        backbone: Folder or hub id of the encoder-decoder, for its config and tokenizer. Default: the one in args.json.
        label: Name of a class. Repeat the option for each class, in order. Default: the class numbers.
    """
    from ladle.paper.conversion import convert_ld4lg as run_conversion

    print(run_conversion(folder, output, autoencoder=autoencoder, backbone=backbone, labels=label or ()))
