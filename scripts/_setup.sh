# Sourced by the other scripts: makes a virtual environment and installs what the project needs.
# Leaves the interpreter's path in $python. Running it again takes a second when nothing changed.
#
#   VIRTUAL_ENV            an environment to use instead of ./.venv
#   EA_POINTCLOUD_PYTHON   the interpreter to make the environment with (3.10 to 3.13)

PATH="$PATH:/sbin:/usr/sbin" # where ldconfig is, for those who are not root

fail() {
    echo "error: $*" >&2
    exit 1
}

# What Open3D needs from the system: libusb to import, Vulkan and a driver to draw off-screen.
install_system_libraries() {
    [ "$(uname -s)" = Linux ] || return 0
    local packages=()
    # Not piped into grep: with pipefail its early exit would look like a failure of ldconfig.
    local libraries
    libraries=$(ldconfig -p 2>/dev/null || true)
    [[ $libraries == *libusb-1.0.so.0* ]] || packages+=(libusb-1.0-0)
    [[ $libraries == *libvulkan.so.1* ]] || packages+=(libvulkan1)
    if [ -z "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] &&
        ! compgen -G '/usr/share/vulkan/icd.d/*.json' >/dev/null &&
        ! compgen -G '/etc/vulkan/icd.d/*.json' >/dev/null &&
        ! compgen -G '/usr/local/share/vulkan/icd.d/*.json' >/dev/null; then
        packages+=(mesa-vulkan-drivers)
    fi
    [ ${#packages[@]} -gt 0 ] || return 0

    local apt="apt-get update && apt-get install -y --no-install-recommends ${packages[*]}"
    if ! command -v apt-get >/dev/null; then
        echo "note: Open3D needs libusb-1.0, libvulkan and a Vulkan driver (Mesa has one):" \
            "install them with your system's package manager" >&2
    elif [ "$(id -u)" = 0 ]; then
        echo "installing ${packages[*]} for Open3D" >&2
        DEBIAN_FRONTEND=noninteractive sh -c "$apt" >&2 || echo "note: that failed; run: $apt" >&2
    elif sudo -n true 2>/dev/null; then
        echo "installing ${packages[*]} for Open3D" >&2
        sudo -n DEBIAN_FRONTEND=noninteractive sh -c "$apt" >&2 || echo "note: that failed; run: $apt" >&2
    else
        echo "note: Open3D lacks system libraries; run: sudo sh -c '$apt'" >&2
    fi
}

find_interpreter() {
    local candidate
    for candidate in "${EA_POINTCLOUD_PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
            2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.10 to 3.13 found; install one, or name it in EA_POINTCLOUD_PYTHON"
}

# On Linux the package index serves torch with gigabytes of CUDA libraries. Where there is no
# NVIDIA driver take the CPU build: from wherever pip is told to look, else from PyTorch's index.
install_torch() {
    local wanted
    wanted=$(grep '^torch==' scripts/constraints.txt)
    if "$python" -c "import torch, sys; sys.exit('$wanted' != 'torch==' + torch.__version__.split('+')[0])" \
        2>/dev/null; then
        return
    fi
    if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null && [ ! -e /proc/driver/nvidia ]; then
        "$python" -m pip install -q -c scripts/constraints.txt "$wanted+cpu" 2>/dev/null ||
            "$python" -m pip install -q -c scripts/constraints.txt "$wanted+cpu" \
                --extra-index-url https://download.pytorch.org/whl/cpu ||
            fail "could not install $wanted (CPU build); check the network, or install it by hand"
    else
        "$python" -m pip install -q -c scripts/constraints.txt "$wanted" ||
            fail "could not install $wanted; check the network, or install it by hand"
    fi
}

setup() {
    install_system_libraries
    local environment="${VIRTUAL_ENV:-$PWD/.venv}"
    if [ ! -x "$environment/bin/python" ]; then
        local interpreter
        interpreter=$(find_interpreter)
        echo "making $environment with $("$interpreter" --version)" >&2
        "$interpreter" -m venv "$environment" || {
            rm -rf "$environment"
            fail "could not make $environment; on Debian or Ubuntu: apt-get install python3-venv"
        }
    fi
    python="$environment/bin/python"
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' ||
        fail "$environment has $("$python" --version); this project needs 3.10 to 3.13"

    local stamp="$environment/.ea-pointcloud-installed" state
    state="$PWD $(cat pyproject.toml scripts/constraints.txt | cksum)"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$state" ]; then
        return
    fi
    echo "installing into $environment (minutes the first time)" >&2
    install_torch
    "$python" -m pip install -q -c scripts/constraints.txt -e '.[dev]' ||
        fail "installation failed; the lines above say why"
    echo "$state" >"$stamp"
}

setup
