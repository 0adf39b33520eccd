#!/usr/bin/env bash
# The wheel of `make wheel` as people install it: into an empty virtual environment, by uvx and by pipx. Needs a network.
set -euo pipefail
cd "$(dirname "$0")/.."

wheels=(target/wheels/cgil-*.whl)
wheel=$(realpath "${wheels[-1]}")
version="cgil $(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { echo "$*" >&2; exit 1; }
same_version() { [[ $1 == "$version"* ]] || fail "$2: expected $version, found $1"; }

python3 -m venv "$work/empty"
"$work/empty/bin/pip" install --quiet --no-index "$wheel"
cgil=$work/empty/bin/cgil
same_version "$("$cgil" --version)" "pip install"
! nm "$cgil" 2>/dev/null | grep -q . || fail "the program of the wheel has symbols"
"$work/empty/bin/python" - <<'PYTHON' || fail "the wheel has another README"
from importlib.metadata import metadata
from pathlib import Path

assert metadata("cgil").get_payload().strip() == Path("README.md").read_text().strip()
PYTHON

python3 -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet uv pipx
same_version "$("$work/tools/bin/uvx" --quiet --cache-dir "$work/uv" --from "$wheel" cgil --version)" uvx
same_version "$(PIPX_HOME=$work/pipx "$work/tools/bin/pipx" run --spec "$wheel" cgil --version)" pipx

cd "$work"
"$cgil" demo "$work/demo" | tee "$work/printed"
grep -q '^FAA 9' "$work/printed" || fail "the demo did not learn"
echo "$(basename "$wheel"), $(($(stat -c %s "$wheel") / 1000000)) MB: pip install, uvx, pipx run and the demo work"
