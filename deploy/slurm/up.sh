#!/usr/bin/env bash
# A SLURM of one node for tests, on Debian or Ubuntu, as root: one partition "all", and "gpu" with a make-believe GPU, without accounting.
#   deploy/slurm/up.sh            installs what is missing, starts munged, slurmctld and slurmd, and waits for the node
#   deploy/slurm/up.sh down       stops them
# Not for a cluster that people use: the controller runs as root, and nothing confines a job to what it asked for.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
state=${SLURM_TEST_STATE:-/var/lib/cohort-slurm}
conf=/etc/slurm/slurm.conf
mark="# written by cohort_engine/deploy/slurm"

stop() {
    for name in slurmd slurmctld; do
        pid=$(cat "$state/$name.pid" 2>/dev/null || true)
        if [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$name" ]; then  # not somebody who has its number now
            kill "$pid"
            for _ in $(seq 50); do [ -d "/proc/$pid" ] && sleep 0.1; done
        fi
        rm -f "$state/$name.pid"
    done
}

if [ "${1:-}" = down ]; then
    stop
    exit 0
fi
[ "$(id -u)" = 0 ] || { echo "SLURM for tests is set up as root" >&2; exit 3; }
if ! { command -v slurmctld && command -v slurmd && command -v munged; } >/dev/null; then
    command -v apt-get >/dev/null || { echo "SLURM for tests comes from Debian's packages" >&2; exit 3; }
    wait="-o DPkg::Lock::Timeout=60 -o Acquire::Retries=1 -o Acquire::http::Timeout=15"
    if ! { timeout 180 apt-get $wait -qq update && DEBIAN_FRONTEND=noninteractive timeout 240 apt-get $wait -qq install --no-install-recommends --yes \
        slurm-wlm munge; } >/tmp/cohort-slurm-apt.log 2>&1; then
        tail -3 /tmp/cohort-slurm-apt.log >&2
        echo "SLURM cannot be installed: no package server" >&2
        exit 3
    fi
fi
if [ -f "$conf" ] && ! grep -qF "$mark" "$conf"; then
    echo "$conf is not of this test: left alone" >&2
    exit 3
fi
mkdir -p "$state/state" "$state/spool" /etc/slurm /run/munge
host=$(hostname -s)
cores=$(nproc)
memory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
sed -e "s|@MARK@|$mark|; s|@STATE@|$state|g; s|@HOST@|$host|g; s|@MEMORY@|$memory|g" -e "s|@CORES@|$((cores > 4 ? cores : 4))|g" \
    "$here/slurm.conf.in" >"$state/slurm.conf"
cmp -s "$state/slurm.conf" "$conf" && sinfo --noheader --format=%T 2>/dev/null | grep -qE '^(idle|mixed|allocated)$' && exit 0

stop
cp "$state/slurm.conf" "$conf"
printf '%s\nNodeName=%s Name=gpu Count=1 File=/dev/null\n' "$mark" "$host" >/etc/slurm/gres.conf
printf '%s\nCgroupPlugin=cgroup/v1\n' "$mark" >/etc/slurm/cgroup.conf

if ! munge -n >/dev/null 2>&1; then
    chown munge: /run/munge
    [ -f /etc/munge/munge.key ] || { head -c 1024 /dev/urandom >/etc/munge/munge.key; }
    chown munge: /etc/munge/munge.key && chmod 400 /etc/munge/munge.key
    setpriv --reuid=munge --regid=munge --clear-groups munged
fi
slurmctld -c
slurmd -N "$host"
for _ in $(seq 240); do  # half a minute, more on a busy machine
    sinfo --noheader --format=%T 2>/dev/null | grep -q '^idle$' && exit 0
    sleep 0.5
done
sinfo >&2 || true
tail -5 "$state"/*.log >&2
exit 1
