#!/bin/sh
# Install the benchmark from this bundle on a machine without a network: sh install.sh [FOLDER]
set -eu
umask 022

fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 2
}

say() { printf '%s\n' "$*"; }

free_kb() { df -Pk -- "$parent" | awk 'NR == 2 { print $4 }'; }

# The last message of a tool: what it says before it gives up.
last_words() { grep -E -i 'error|cause|because|not |no ' "$1" | tail -n 3 | tr -s '\n ' '  ' | tail -c 400; }

[ $# -le 1 ] || fail "$# arguments; allowed: the folder to install in (default: cnn-stack-bench here)"
case ${1-} in -*) fail "$1: no such option; usage: sh install.sh [FOLDER]" ;; esac

bundle=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
folder=${1:-cnn-stack-bench}
parent=$(CDPATH='' cd -- "$(dirname -- "$folder")" 2>/dev/null && pwd -P) ||
    fail "$(dirname -- "$folder"): no such folder; make it, or name another place"
folder=${parent%/}/$(basename -- "$folder")
made=

# Tools list paths with commas, colons and blanks between them.
for path in "$bundle" "$folder"; do
    case $path in
        *[!A-Za-z0-9_/.+@%~-]*) fail "$path: allowed in this path: letters, digits and _/.+@%~-; use another folder" ;;
    esac
done

cleanup() {
    status=$?
    trap - EXIT
    [ -z "$made" ] || rm -rf -- "$folder"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' HUP INT TERM

# What the bundle is for: checked before anything else is read.
cd -- "$bundle"
grep ' settings$' SHA256SUMS | LC_ALL=C sha256sum -c >/dev/null 2>&1 ||
    fail "$bundle/settings: damaged, missing or not readable (its SHA-256 must be that in SHA256SUMS); copy the bundle again"
. ./settings
machine=$(uname -m)
[ "$machine" = "$architecture" ] ||
    fail "this machine is $machine, and the bundle is for $architecture; make a bundle on a machine of this kind"
libc=$(getconf GNU_LIBC_VERSION 2>/dev/null) || libc=
printf '%s\n' "${libc#glibc }" | awk -F. -v need="$glibc" '{ split(need, n, "."); exit !($1 > n[1] || ($1 == n[1] && $2 >= n[2])) }' ||
    fail "this machine has ${libc:-no glibc}, and the wheels need glibc $glibc or newer; install a newer system"
if [ -z "$managed_python" ]; then
    found=$("python$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || found=
    [ "$found" = "$python" ] ||
        fail "Python $python is missing, and the bundle holds none; install python$python, or make the bundle where uv can download one"
fi
if [ -f "$folder/.installing" ]; then
    if kill -0 "$(cat -- "$folder/.installing")" 2>/dev/null; then
        fail "$folder: another installation is under way there; wait for its end, or name another folder"
    fi
    say "removing what an interrupted installation left in $folder"
    rm -rf -- "$folder"
fi
[ ! -e "$folder" ] || fail "$folder: exists already; remove it, or name another folder"
[ -w "$parent" ] || fail "$parent: not writable; make it accessible to you, or name another folder"
[ "$(free_kb)" -ge "$installed_kb" ] ||
    fail "$parent: has $(($(free_kb) / 1000)) MB free, and the installation needs $((installed_kb / 1000)) MB; free space there, or name another folder"

say "checking the bundle's files"
[ "$(wc -l <SHA256SUMS)" -eq "$files" ] || fail "$bundle/SHA256SUMS: damaged (not $files lines); copy the bundle again"
damaged=$(LC_ALL=C sha256sum -c SHA256SUMS 2>/dev/null | grep -v ': OK$' | head -n 1) || true
[ -z "$damaged" ] || fail "$bundle/${damaged%%: *}: damaged, missing or not readable (its SHA-256 must be that in SHA256SUMS); copy the bundle again"

mkdir -- "$folder" || fail "$folder: can't be made; name another folder"
made=1
echo $$ >"$folder/.installing"
log=$(mktemp "${TMPDIR:-/tmp}/install-XXXXXX") || fail "${TMPDIR:-/tmp}: not writable; set TMPDIR to another folder"

# Run a command; if it fails, say what failed in one line.
step() {
    what=$1
    shift
    "$@" >>"$log" 2>&1 && return
    # On a full disk there may be no room for the message either.
    if grep -q -i 'no space left on device' "$log" || [ "$(free_kb)" -lt 1000 ]; then
        fail "$what: the disk of $parent is full; free $((installed_kb / 1000)) MB there, or name another folder"
    fi
    fail "$what failed: $(last_words "$log") (all of it: $log); nothing stays in $folder"
}

step "copying the project" cp -R project/. "$folder/"
offline=$folder/.offline
mkdir -- "$offline" "$offline/bin"
step "copying the tools" cp -R requirements data tools/uv "$offline/"
step "copying the tools" mv "$offline/uv" "$offline/bin/uv"
step "making files writable" chmod -R u+rwX "$folder"
chmod 755 "$offline/bin/uv"

# The variables of every later call: the same ones each time, or tox would make the environments again.
cat >"$folder/activate" <<END
# Read by a shell: . $folder/activate
[ -d "$bundle/wheels" ] || echo "the bundle $bundle is gone: put it back, or run its install.sh again" >&2
for name in \$(env | sed -n 's/^\(UV_[A-Z0-9_]*\)=.*/\1/p'); do unset "\$name"; done
export UV_OFFLINE=1 UV_NO_INDEX=1 UV_NO_CONFIG=1 UV_PYTHON_DOWNLOADS=never UV_NO_PROGRESS=1
export UV_FIND_LINKS="$bundle/wheels" UV_CACHE_DIR="$offline/cache" UV_PYTHON_INSTALL_DIR="$offline/python"
export UV_CONSTRAINT="$offline/requirements/tools.txt"
export TOX_OVERRIDE="\${TOX_OVERRIDE:+\$TOX_OVERRIDE;}testenv.set_env+=UV_CONSTRAINT=$offline/requirements/{env_name}.txt"
export TOXENV="$environments"
[ ! -d "$offline/data/fashion-mnist" ] || export FASHION_MNIST_DIR="$offline/data/fashion-mnist"
export PATH="$offline/tox/bin:$offline/bin${managed_python:+:$offline/python/$managed_python/bin}:\$PATH"
END
cat >"$folder/tox" <<END
#!/bin/sh
. "$folder/activate"
cd -- "$folder" && exec "$offline/tox/bin/tox" "\$@"
END
chmod 755 "$folder/tox"
. "$folder/activate"

if [ -n "$managed_python" ]; then
    say "installing $managed_python"
    [ ! -f "$bundle/python/downloads.json" ] || export UV_PYTHON_DOWNLOADS_JSON_URL="$bundle/python/downloads.json"
    step "installing Python" env UV_PYTHON_DOWNLOADS=manual UV_PYTHON_CACHE_DIR="$bundle/python" \
        uv python install --no-bin "$managed_python"
    unset UV_PYTHON_DOWNLOADS_JSON_URL
fi
say "installing tox"
step "making the environment of tox" uv venv --python "python$python" "$offline/tox"
step "installing tox" uv pip install --python "$offline/tox/bin/python" --no-deps --require-hashes \
    --requirements "$offline/requirements/tools.txt"
cd -- "$folder"
for name in $(printf '%s' "$environments" | tr ',' ' '); do
    say "making the environment $name"
    step "making the environment $name" ./tox -e "$name" --notest
done
made=
rm -f -- "$folder/.installing" "$log"
command -v g++ >/dev/null 2>&1 || say "g++ is missing: arms that compile will fail, until you install it"
say "ready. Measure: cd $folder && ./tox"
