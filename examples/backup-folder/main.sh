#!/usr/bin/env bash
# Packs the folder named in the input into backup.tar.gz, reads the archive back in full, compares it with the
# folder, and leaves it in DROVER_ARTIFACTS. By hand: DROVER_INPUT=input.json bash main.sh
set -euo pipefail

input=${DROVER_INPUT:?set it to the path of a file such as {\"folder\": \"/etc\"\}}
artifacts=${DROVER_ARTIFACTS:-$PWD/out}
output=${DROVER_OUTPUT:-$artifacts/output.json}
archive=$artifacts/backup.tar.gz

# Tells Drover why the job fails (kind, code, message) and ends it.
fail() {
  echo "$3" >&2
  if [ -n "${DROVER_ERROR:-}" ]; then
    python3 -c 'import json, sys; json.dump(dict(zip(("kind", "code", "message"), sys.argv[1:])), sys.stdout)' \
      "$1" "$2" "$3" >"$DROVER_ERROR"
  fi
  exit 1
}

# A soft stop leaves no half archive behind: it would be uploaded as if it were whole.
packer=
stopped() {
  # A shell's background processes ignore the interrupt that the shell itself got.
  [ -z "$packer" ] || { kill "$packer" && wait "$packer"; } 2>/dev/null || true
  rm -f "$archive"
  echo "a stop was asked: the unfinished archive is removed" >&2
  exit 130
}
trap stopped INT TERM

if ! command -v python3 >/dev/null; then
  echo "python3 is needed to read the input: install it on the robot's host" >&2
  exit 1
fi
folder=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1], encoding="utf-8"))["folder"])' "$input") ||
  fail application bad_input "the input must be an object with the member folder"
[ -d "$folder" ] || fail business folder_missing "there is no folder $folder on this host"
if [ ! -r "$folder" ] || [ ! -x "$folder" ]; then
  fail application folder_unreadable "the robot's account may not read $folder"
fi

mkdir -p "$artifacts"
# One copy of the data must fit beside what is there; compression only makes it smaller.
needed_kib=$(du -sk -- "$folder" | cut -f1)
free_kib=$(df -Pk -- "$artifacts" | awk 'NR == 2 { print $4 }')
[ "$needed_kib" -le "$free_kib" ] ||
  fail infrastructure no_space "up to $needed_kib KiB are needed for the archive, $free_kib KiB are free"

echo "packing $folder ($needed_kib KiB)"
# In the background and waited for, so that a stop is noticed at once.
tar --create --gzip --file "$archive" --directory "$folder" . &
packer=$!
status=0
wait "$packer" || status=$?
packer=
# 1 means that a file changed meanwhile: the comparison below tells which.
if [ "$status" -gt 1 ]; then
  rm -f "$archive"
  fail application tar_failed "tar could not pack $folder; its messages are in the log"
fi

echo "verifying the archive"
gzip --test "$archive" || { rm -f "$archive"; fail infrastructure archive_damaged "the archive cannot be read back"; }
if ! tar --compare --gzip --file "$archive" --directory "$folder"; then
  # It is whole, but not the folder as it is now: a person must know, the archive is still the best there is.
  echo "files of $folder changed while they were packed; the archive holds them as they were" >&2
fi

entries=$(tar --list --gzip --file "$archive" | wc -l)
size_bytes=$(stat --format %s -- "$archive")
sha256=$(sha256sum -- "$archive" | cut -d' ' -f1)
printf '{"archive": "backup.tar.gz", "entries": %d, "size_bytes": %d, "sha256": "%s"}\n' \
  "$entries" "$size_bytes" "$sha256" >"$output"
printf '{"level": "info", "message": "packed %d entries into %d bytes", "fields": {"sha256": "%s"}, "progress": {"percent": 100}}\n' \
  "$entries" "$size_bytes" "$sha256"
