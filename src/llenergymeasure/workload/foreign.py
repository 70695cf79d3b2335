"""Which format is a file in that holds no JSON, and which command makes JSON of it?"""

from __future__ import annotations

import shlex
from pathlib import Path

from llenergymeasure.exceptions import ConfigError

_EACH = (
    "python -c 'import json, sys{imports}; [print(json.dumps({what})) for {name} in {source}]' {file} > {out}"
)
_ROWS = _EACH.replace("{what}", "row, default=str").replace("{name}", "row")

# How a file begins, what that is, and the command.
_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xfe\0\0", "UTF-32 text", "iconv -f UTF-32 -t UTF-8 {file} > {out}"),
    (b"\0\0\xfe\xff", "UTF-32 text", "iconv -f UTF-32 -t UTF-8 {file} > {out}"),
    (b"\xff\xfe", "UTF-16 text", "iconv -f UTF-16 -t UTF-8 {file} > {out}"),
    (b"\xfe\xff", "UTF-16 text", "iconv -f UTF-16 -t UTF-8 {file} > {out}"),
    (b"\x1f\x8b", "gzip-compressed twice", "gzip -dc {file} | gzip -dc > {out}"),
    (b"PK\x03\x04", "a zip archive", "unzip -p {file} > {out}"),
    (b"\xfd7zXZ\0", "xz-compressed", "xz -dc {file} > {out}"),
    (b"BZh", "bzip2-compressed", "bzip2 -dc {file} > {out}"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed", "zstd -dc {file} > {out}"),
    (
        b"PAR1",
        "a Parquet file",
        _ROWS.format(
            imports=", pyarrow.parquet as pq",
            source="pq.read_table(sys.argv[1]).to_pylist()",
            file="{file}",
            out="{out}",
        ),
    ),
    (
        b"ARROW1",
        "an Arrow file",
        _ROWS.format(
            imports=", pyarrow as pa",
            source="pa.ipc.open_file(sys.argv[1]).read_all().to_pylist()",
            file="{file}",
            out="{out}",
        ),
    ),
    (
        b"\xff\xff\xff\xff",
        "an Arrow stream",
        _ROWS.format(
            imports=", pyarrow as pa",
            source="pa.ipc.open_stream(sys.argv[1]).read_all().to_pylist()",
            file="{file}",
            out="{out}",
        ),
    ),
    (b"version https://git-lfs", "a pointer of Git LFS, without the file", "git lfs pull --include {file}"),
)
_TABLE = _ROWS.format(
    imports=", csv",
    source='csv.DictReader(open(sys.argv[1], encoding="utf-8-sig", newline=""){delimiter})',
    file="{file}",
    out="{out}",
)
_LINES = _EACH.format(
    imports="",
    what="line.strip()",
    name="line",
    source='open(sys.argv[1], encoding="utf-8-sig") if line.strip()',
    file="{file}",
    out="{out}",
)


def refuse_binary(path: str, head: bytes) -> None:
    """ConfigError where the file begins as one that is not UTF-8 text."""
    for beginning, what, command in _BEGINNINGS:
        if head.startswith(beginning):
            raise _refused(path, what, command)
    if head[257:262] == b"ustar":
        raise _refused(path, "a tar archive", "tar -xOf {file} > {out}")
    # JSON begins with two ASCII characters, of which UTF-16 makes four bytes.
    if len(head) > 3 and (head[0] | head[2] == 0) != (head[1] | head[3] == 0):
        order = "BE" if head[0] == 0 else "LE"
        raise _refused(path, "UTF-16 text", f"iconv -f UTF-16{order} -t UTF-8 {{file}} > {{out}}")
    if b"\0" in head:
        raise ConfigError(f"dataset {path} is a binary file of no known format", hint=JSON_FORMATS)


def not_utf8(path: str, where: str) -> ConfigError:
    command = "iconv -f WINDOWS-1252 -t UTF-8 {file} > {out}"
    return ConfigError(f"{where} is not UTF-8", hint=f"if it is Windows-1252: {_filled(command, path)}")


def not_json(path: str, head: str) -> ConfigError:
    """The refusal of a text that is not JSON, by what it looks like."""
    first = head.lstrip().splitlines()[0]
    suffix = Path(path).suffix.lower()
    if first.startswith("<"):
        return ConfigError(
            f"dataset {path} is HTML or XML, not JSON",
            hint="where a web page was saved: download the raw file instead",
        )
    if suffix == ".tsv" or "\t" in first:
        return _refused(path, "a table with tabs (TSV)", _TABLE.replace("{delimiter}", ', delimiter="\\t"'))
    if suffix == ".csv" or "," in first.strip(","):
        return _refused(path, "a table with commas (CSV)", _TABLE.replace("{delimiter}", ""))
    return _refused(path, "plain text", _LINES)


JSON_FORMATS = (
    "JSON, by line or as one array, of texts, of objects with a prompt, text or instruction, "
    "of ShareGPT conversations or of OpenAI messages; gzip is fine"
)


def _refused(path: str, what: str, command: str) -> ConfigError:
    return ConfigError(f"dataset {path} is {what}, not JSON", hint=_filled(command, path))


def _filled(command: str, path: str) -> str:
    source = Path(path)
    out = source.with_suffix(".jsonl").name
    if out == source.name:
        out = f"{source.stem}-converted.jsonl"
    return command.replace("{file}", shlex.quote(path)).replace("{out}", shlex.quote(out))
