#!/usr/bin/env bash
# Starts Ray on this machine, token authentication on.
#
#   cluster/start.sh head [OPTION ...]              the first node, with dashboard and job server
#   cluster/start.sh worker HOST:PORT [OPTION ...]  every further node; copy the head's token first
#
# Options go to `ray start`: --labels=repo-ray/role=judge gives a node its role, --num-cpus=0
# keeps work off the head.
#
# Ends with `ray stop`, which ends every Ray process of this machine, other people's included.
set -euo pipefail
cd "$(dirname "$0")/.."

PATH="$PWD/.venv/bin:$PATH" # submitted jobs run with the PATH of whoever ran `ray start`
export PATH
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED="${RAY_USAGE_STATS_ENABLED:-0}" # else Ray reports its use to its makers
# Time between SIGTERM and SIGKILL when a job is stopped: enough to write a checkpoint.
export RAY_JOB_STOP_WAIT_TIME_S="${RAY_JOB_STOP_WAIT_TIME_S:-120}"

usage() {
  echo 'usage: cluster/start.sh head [OPTION ...] | worker HOST:PORT [OPTION ...]' >&2
  exit 2
}

case "${1:-}" in
head)
  shift
  ray get-auth-token --generate >/dev/null
  ray start --head --port="${PORT:-6379}" --dashboard-host="${DASHBOARD_HOST:-127.0.0.1}" \
    --dashboard-port="${DASHBOARD_PORT:-8265}" "$@"
  ;;
worker)
  [ $# -ge 2 ] || usage
  address="$2"
  shift 2
  ray start --address="$address" "$@"
  ;;
*)
  usage
  ;;
esac
