#!/usr/bin/env bash
# Holds the files of the deployment to their formats, with the tools that are there; it says which are not.
# install_checkers.sh brings those that can be had beside the system; the others are
#   apt-get install docker-compose systemd
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/target/checkers/bin:$PATH

failed=0
# check PROGRAMS WHAT COMMAND...: runs the command if all of these programs are there.
check() {
    local programs=$1 what=$2 program missing=
    shift 2
    for program in $programs; do
        command -v "$program" >/dev/null || missing+=" $program"
    done
    if [ -n "$missing" ]; then
        printf 'not checked  %s: there is no%s here\n' "$what" "$missing"
    elif "$@"; then
        printf 'good         %s\n' "$what"
    else
        printf 'BAD          %s\n' "$what"
        failed=1
    fi
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

security() {
    local level
    level=$(systemd-analyze security --offline=true --no-pager deploy/systemd/just_storage.service |
        sed -n 's/.*exposure level for .*: \([0-9.]*\) .*/\1/p')
    echo "exposure $level of at most 2.5"
    awk -v level="$level" 'BEGIN { exit !(level != "" && level <= 2.5) }'
}
manifests() {
    kubectl kustomize deploy/kubernetes >"$work/manifests.yaml" &&
        kubernetes-validate --strict --quiet "$work/manifests.yaml"
}
workflows() {
    actionlint .github/workflows/*.yml
}

check python3 'the filter of system calls' deploy/docker/make_seccomp.py --check
check hadolint Dockerfile hadolint Dockerfile
check yamllint 'every YAML file' yamllint --strict --config-data \
    '{extends: default, rules: {line-length: {max: 144}, document-start: disable, truthy: {check-keys: false}, braces: {max-spaces-inside: 1}, comments: {min-spaces-from-content: 1}, comments-indentation: disable}}' \
    docker-compose.yml deploy .github
check docker-compose docker-compose.yml docker-compose --file docker-compose.yml config --quiet
check 'kubectl kubernetes-validate' deploy/kubernetes manifests
check systemd-analyze deploy/systemd security
check promtool 'rules of alerts' promtool check rules deploy/prometheus/just_storage.rules.yml
check promtool 'rules of alerts, tried' promtool test rules deploy/prometheus/just_storage.rules.test.yml
check actionlint .github/workflows workflows
check sh 'maintainer scripts' sh -n deploy/debian/postinst deploy/debian/prerm deploy/debian/postrm

exit "$failed"
