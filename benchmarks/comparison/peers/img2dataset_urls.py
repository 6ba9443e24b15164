"""img2dataset: it takes URLs, so the folder is served on this machine, by a process that is not measured."""

from __future__ import annotations

from pathlib import Path

from benchmarks.comparison.variants import Input


def pack(source: Input, target: Path, workers: int, server: str, decode: bool = False) -> None:
    """Download without resizing into tars; with `decode`, what does not decode is left out, and nothing is encoded."""
    from img2dataset import download

    target.parent.mkdir(parents=True, exist_ok=True)
    urls = target.with_suffix(".txt")
    names = sorted(file.name for file in source.files.iterdir())
    urls.write_text("\n".join(f"{server}/{source.files.name}/{name}" for name in names))
    download(
        url_list=str(urls),
        output_folder=str(target),
        output_format="webdataset",
        processes_count=workers,
        thread_count=16,
        number_sample_per_shard=max(1, len(names) // (2 * workers)),  # a process takes a shard at a time
        resize_mode="no",
        skip_reencode=True,
        disable_all_reencoding=not decode,
        extract_exif=False,
        compute_hash="sha256",
    )
