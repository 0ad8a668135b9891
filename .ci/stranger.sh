#!/usr/bin/env bash
# What a stranger does: the README word for word and timed, in a new clone and a shell that knows HOME and PATH alone. 20 minutes, most of them installation and
# the demonstration. SLURM and Kubernetes are not on every machine: tests/slurm, tests/clusters and tests/unit/deploy have what the README says of them.
set -euo pipefail
cd "$(dirname "$0")/.."
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
git clone --quiet . "$place/cohort_engine"
cd "$place/cohort_engine"
# `doctor` exits with 1 where PAM50 is not installed, and says how to get it.
env -i "HOME=$HOME" PATH=/usr/local/bin:/usr/bin:/bin "${PYTHON:-python3}" docs/run_pages.py README.md --folder . --allow "cohort-engine doctor" \
    --section "Install" --section "Five minutes" --section "A study of your own" --section "Your data"
test -s demo/tracts.png && test -s demo/study_analysis/report.html && test -s study_analysis/report.html
