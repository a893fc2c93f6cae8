#!/usr/bin/env bash
# Lints the contract with buf, beside the Google protos it imports (from googleapis-common-protos).
set -euo pipefail
cd "$(dirname "$0")"
if ! command -v npx >/dev/null; then
    echo "protos/lint.sh: npx is missing, so the contract is not linted" >&2
    exit 0
fi
python=../.venv/bin/python
google=$("$python" -c 'from google.api import annotations_pb2; import pathlib; print(pathlib.Path(annotations_pb2.__file__).parents[1])')
beside=$(mktemp -d)
trap 'rm -rf "$beside"' EXIT
cp -r buf.yaml gramserve "$beside"
for package in api rpc; do
    mkdir -p "$beside/google/$package"
    cp "$google/$package"/*.proto "$beside/google/$package"
done
cd "$beside"
npx --yes @bufbuild/buf lint
