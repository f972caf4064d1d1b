#!/usr/bin/env bash
# Runs the steps of a Dockerfile without Docker: the same COPY and make lines, in an empty folder.
#
#   docker/check.sh cpu     needs the index of PyTorch's CPU build as `make setup` does
#
# What it leaves out is apt-get, useradd and chown: the packages must be installed already.
set -euo pipefail
cd "$(dirname "$0")/.."

device="${1:?usage: docker/check.sh cpu|gpu}"
TORCH_INDEX="${TORCH_INDEX:-}" # the build argument
export TORCH_INDEX
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
git archive --prefix=context/ HEAD | tar -x -C "$work"
mkdir "$work/app"
cd "$work/app"

copy() { # sources ... target, as COPY does it: the content of a folder, not the folder itself
  local target="${*: -1}"
  for source in "${@:1:$#-1}"; do
    if [ -d "$work/context/$source" ]; then
      mkdir -p "$target" && cp -r "$work/context/$source/." "$target"
    else
      [ "$target" = ./ ] || mkdir -p "$(dirname "$target")"
      cp "$work/context/$source" "$target"
    fi
  done
}

while read -r instruction arguments; do
  case "$instruction $arguments" in
  'COPY --from=build'*) ;; # the environment stands where it was built, under the same path
  # shellcheck disable=SC2086
  'COPY --chown='*) copy ${arguments#* } ;;
  # shellcheck disable=SC2086
  'COPY '*) copy $arguments ;;
  'RUN make '* | 'RUN touch '*) echo "+ $arguments" >&2 && eval "$arguments" ;;
  esac
done <"$work/context/docker/Dockerfile.$device"

PATH="$PWD/.venv/bin:$PATH" repo-ray --help >/dev/null
make --question setup DEVICE="$device" # up to date: `make` targets do not install again
echo "the steps of docker/Dockerfile.$device work"
