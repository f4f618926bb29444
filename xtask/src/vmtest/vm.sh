#!/usr/bin/env bash
# Runs one command as root under a stock Debian kernel, in a virtual machine that is thrown away afterwards.
#
#   vm.sh [-i] [-t SECONDS] [-m MEBIBYTES] [-c CPUS] SUITE COMMAND [ARGUMENT...]
#   vm.sh -f SUITE
#
#   SUITE   a Debian suite (bookworm, trixie, sid ...), whose newest kernel is fetched by apt into the cache
#   -i      exact time: one CPU, one instruction takes one nanosecond
#   -t      limit for everything, the boot included (default 300)
#   -m, -c  memory and processors of the machine (default 2048 and 2)
#   -f      fetch the kernel only, and print its version
#
# The machine's root is this one's, read-only under a layer in memory: every program and file is there, and what is
# written is gone with the machine. Every module of the kernel can be loaded. There is no network. What the command
# says comes out here, and its exit status is ours; 124: out of time; 125: no machine, the reason is on standard error.
#
# Needs root, Debian on x86-64, and what `cargo xtask setup` installs. An emulator that is not installed is unpacked
# in the cache, so that nothing on this machine has to make room for it.
#
# LB_VM_CACHE   where kernels are kept (default: ~/.cache/lb-vm)
# LB_VM_MIRROR  a Debian mirror (default: the one that this machine's apt uses)
set -euo pipefail

cache=${LB_VM_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/lb-vm}
readonly LISTS_MAX_AGE_MINUTES=1440
readonly SHARE=trans=virtio,version=9p2000.L,msize=262144

die() {
    echo "vm: $*" >&2
    exit 125
}

seconds=300 mebibytes=2048 cpus=2 exact='' fetch_only=''
while getopts 'it:m:c:f' option; do
    case $option in
        i) exact=1 ;;
        t) seconds=$OPTARG ;;
        m) mebibytes=$OPTARG ;;
        c) cpus=$OPTARG ;;
        f) fetch_only=1 ;;
        *) die "usage: vm.sh [-i] [-t SECONDS] [-m MEBIBYTES] [-c CPUS] SUITE COMMAND..., or vm.sh -f SUITE" ;;
    esac
done
shift $((OPTIND - 1))
suite=${1:-}
shift || true
case $suite in '' | *[!a-z0-9.-]*) die "'$suite' is no name of a suite; use bookworm, trixie or sid" ;; esac
[ -n "$fetch_only" ] || [ $# -ge 1 ] || die "no command to run under the kernel of $suite"
[ "$(id -u)" = 0 ] || die "not root, but the machine reads this one's files as root; run it as root"
for program in cpio xz depmod dpkg-deb; do
    command -v "$program" >/dev/null || die "the program $program is missing; run 'cargo xtask setup' as root"
done

# --- packages ----------------------------------------------------------------------------------------------------

# apt_of SUITE STATUS TOOL ARGUMENT...: apt with lists of its own, that sees one suite and takes the packages in
# STATUS for installed. This machine's own apt neither sees nor changes anything.
apt_of() {
    local dir=$cache/apt-$1 status=$2
    shift 2
    "$1" -o Dir::State="$dir" -o Dir::State::lists="$dir/lists" -o Dir::State::status="$status" \
        -o Dir::Cache="$dir" -o Dir::Cache::archives="$dir/archives" -o Dir::Etc="$dir/etc" \
        -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o APT::Sandbox::User=root \
        -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false "${@:2}"
}

# Brings the lists of a suite up to date, if they are old.
read_lists() {
    local dir=$cache/apt-$1 mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    mkdir -p "$dir/lists/partial" "$dir/archives/partial" "$dir/etc/preferences.d"
    [ -f "$dir/none" ] || : >"$dir/none"
    [ -z "$(find "$dir/read" -mmin -"$LISTS_MAX_AGE_MINUTES" 2>/dev/null)" ] || return 0
    # shellcheck disable=SC2016 # apt fills the name in
    mirror=${LB_VM_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null |
        grep -m1 -E '/debian/?$' || true)}
    [ -n "$mirror" ] || die "apt knows no Debian mirror here; name one in LB_VM_MIRROR"
    [ -r "$keyring" ] || die "$keyring is missing; install debian-archive-keyring"
    echo "deb [signed-by=$keyring] $mirror $1 main" >"$dir/etc/sources.list"
    if ! apt_of "$1" "$dir/none" apt-get -qq -o APT::Update::Error-Mode=any update >"$dir/log" 2>&1; then
        [ -f "$dir/read" ] || die "cannot read the packages of $1; is there a network? $(tail -n 1 "$dir/log")"
        echo "vm: cannot refresh the packages of $1, so the kernel in the cache is used" >&2
        return 0
    fi
    touch "$dir/read"
}

# --- the emulator ------------------------------------------------------------------------------------------------

# Sets `emulator`, the command line that starts it.
find_emulator() {
    local root=$cache/emulator codename archives libraries
    if command -v qemu-system-x86_64 >/dev/null; then
        emulator=(qemu-system-x86_64)
        return
    fi
    if [ ! -d "$root" ]; then
        codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
        read_lists "$codename"
        archives=$cache/apt-$codename/archives
        apt_of "$codename" /var/lib/dpkg/status apt-get -qq install --download-only --yes --no-install-recommends \
            qemu-system-x86 >"$cache/log" 2>&1 ||
            die "cannot fetch the emulator (qemu-system-x86 of $codename): $(tail -n 1 "$cache/log")"
        rm -rf "$root.new"
        mkdir "$root.new"
        for package in "$archives"/*.deb; do dpkg-deb -x "$package" "$root.new"; done
        rm -f "$archives"/*.deb
        mv "$root.new" "$root"
    fi
    libraries=$root/usr/lib/x86_64-linux-gnu
    emulator=(env "LD_LIBRARY_PATH=$libraries:$root/lib/x86_64-linux-gnu" "QEMU_MODULE_DIR=$libraries/qemu"
        "$root/usr/bin/qemu-system-x86_64" -L "$root/usr/share/seabios" -L "$root/usr/share/qemu")
}

# --- the kernel --------------------------------------------------------------------------------------------------

# Sets `kernel`, the directory of the suite's newest one, and `version`.
find_kernel() {
    local dir=$cache/apt-$suite package part
    local -a parts
    read_lists "$suite"
    package=$(apt_of "$suite" "$dir/none" apt-cache depends --no-recommends --no-suggests linux-image-amd64 2>/dev/null |
        sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    [ -n "$package" ] || die "$suite has no kernel linux-image-amd64"
    version=${package#linux-image-} kernel=$cache/$package
    [ ! -f "$kernel/initrd" ] || return 0
    # Newer kernels come in several packages. The first program to run in the machine is of the same suite.
    parts=("$package" busybox-static)
    for part in binary modules base; do
        if apt_of "$suite" "$dir/none" apt-cache show "linux-$part-$version" >/dev/null 2>&1; then
            parts+=("linux-$part-$version")
        fi
    done
    rm -rf "$kernel.new"
    mkdir -p "$kernel.new/packages"
    (cd "$kernel.new/packages" && apt_of "$suite" "$dir/none" apt-get -qq download "${parts[@]}") >"$cache/log" 2>&1 ||
        die "cannot fetch ${parts[*]} of $suite; is there a network? $(tail -n 1 "$cache/log")"
    for part in "$kernel.new"/packages/*.deb; do dpkg-deb -x "$part" "$kernel.new"; done
    rm -rf "$kernel.new/packages"
    [ -d "$kernel.new/lib/modules" ] || ln -s usr/lib "$kernel.new/lib"
    cp "$(find "$kernel.new/boot" "$kernel.new/usr/lib/modules" -name 'vmlinuz*' 2>/dev/null | head -n 1)" \
        "$kernel.new/vmlinuz"
    depmod -b "$kernel.new" "$version"
    pack_initrd "$kernel.new"
    mv "$kernel.new" "$kernel"
}

# Packs the modules that reach this machine's files, and a first program that loads them and goes there.
pack_initrd() {
    local dir=$1 root=$1/first module
    mkdir -p "$root"/{bin,modules,dev,proc,lower,upper,root}
    cp "$(find "$dir" -path '*bin/busybox' -type f | head -n 1)" "$root/bin/busybox"
    for module in virtio_pci 9pnet_virtio 9p overlay; do modprobe -d "$dir" -S "$version" --show-depends "$module"; done |
        awk '$1 == "insmod" && !seen[$2]++ { print $2 }' |
        while read -r module; do
            case $module in
                *.xz) xz -dc "$module" >"$root/modules/$(basename "$module" .xz)" ;;
                *.zst) zstd -qdc "$module" >"$root/modules/$(basename "$module" .zst)" ;;
                *) cp "$module" "$root/modules/" ;;
            esac
            basename "$module" | sed 's/\.ko.*/.ko/' >>"$root/modules/order"
        done
    cat >"$root/init" <<INIT
#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc proc /proc
busybox grep -q lb_vm_probe /proc/cmdline && busybox poweroff -f
busybox mount -t devtmpfs dev /dev
for module in \$(busybox cat /modules/order); do busybox insmod /modules/\$module; done
busybox mount -t 9p -o ro,cache=loose,$SHARE root /lower &&
    busybox mount -t tmpfs -o mode=755 tmpfs /upper && busybox mkdir /upper/files /upper/work &&
    busybox mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /root ||
    busybox poweroff -f
busybox mkdir -p /root/run /root/.vm
busybox mount -t tmpfs tmpfs /root/run
busybox mount -t 9p -o $SHARE run /root/.vm
busybox cp /bin/busybox /root/.vm-busybox
busybox mount --move /proc /root/proc
busybox mount --move /dev /root/dev
exec busybox switch_root /root /bin/bash /.vm/init
INIT
    chmod +x "$root/init"
    (cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$dir/initrd"
    rm -rf "$root"
}

# --- the run -----------------------------------------------------------------------------------------------------

# start_machine SECONDS CONSOLE KERNEL_ARGUMENTS EMULATOR_ARGUMENT...: our standard output is the command's.
start_machine() {
    local limit=$1 console=$2 arguments=$3
    shift 3
    timeout -k 5 "$limit" "${emulator[@]}" -M pc -m "$mebibytes" -display none -nodefaults -no-reboot \
        -serial "file:$console" -serial stdio -device virtio-rng-pci -kernel "$kernel/vmlinuz" \
        -initrd "$kernel/initrd" "$@" </dev/null \
        -append "console=ttyS0 loglevel=5 panic=-1 oops=panic mitigations=off rdinit=/init $arguments"
}

# Whether this machine's processor runs the kernel itself. Some have the device and cannot: asked once per boot.
has_kvm() {
    local known
    known=$cache/kvm-$(cat /proc/sys/kernel/random/boot_id)
    [ -w /dev/kvm ] || return 1
    if [ ! -f "$known" ]; then
        rm -f "$cache"/kvm-*
        if start_machine 15 "$cache/log" lb_vm_probe -accel kvm -cpu host >/dev/null 2>&1; then
            echo yes >"$known"
        else
            echo no >"$known"
        fi
    fi
    [ "$(cat "$known")" = yes ]
}

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
find_emulator
find_kernel
if [ -n "$fetch_only" ]; then
    echo "$version"
    exit 0
fi
if [ -n "$exact" ]; then
    cpus=1
    machine=(-accel tcg -icount shift=0,sleep=off -cpu max)
elif has_kvm; then
    machine=(-accel kvm -cpu host)
else
    machine=(-accel tcg -cpu max)
fi
flock -u 9

# This directory is shared with the machine: what it starts with, the command, and its exit status.
run=$(mktemp -d)
pid=''
trap 'kill $pid 2>/dev/null || :; rm -rf "$run"' EXIT
trap 'exit 130' INT TERM
share() { echo "-virtfs local,path=$1,mount_tag=$2,security_model=passthrough,multidevs=remap${3:-}"; }
read -ra shares <<<"$(share / root ,readonly=on) $(share "$run" run) $(share "$kernel/lib/modules/$version" modules ,readonly=on)"
cat >"$run/init" <<INIT
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LANG=C.UTF-8
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm /lib/modules/$version
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t 9p -o ro,cache=loose,$SHARE modules /lib/modules/$version
ln -sf /proc/self/fd /dev/fd
ip link set lo up
stty -F /dev/ttyS1 raw 115200
: >/.vm/started
cd $(printf %q "$PWD")
setsid -w /bin/bash /.vm/command </dev/null >/dev/ttyS1 2>&1
echo \$? >/.vm/status
sync
/.vm-busybox poweroff -f
INIT
printf '%q ' "$@" >"$run/command"

end=$((SECONDS + seconds))
# A machine that dies before the command began is started again.
for _ in 1 2 3; do
    left=$((end > SECONDS ? end - SECONDS : 1))
    start_machine "$left" "$run/console" '' "${machine[@]}" -smp "$cpus" "${shares[@]}" 2>"$run/emulator" &
    pid=$! status=0
    wait "$pid" || status=$?
    pid=''
    [ ! -s "$run/status" ] || exit "$(cat "$run/status")"
    if [ "$status" = 124 ] || [ "$status" = 137 ]; then
        echo "vm: not done within $seconds seconds under the kernel $version of $suite" >&2
        exit 124
    fi
    [ ! -e "$run/started" ] || break
done
cat "$run/emulator" >&2
tail -n 30 "$run/console" >&2 2>/dev/null || :
if [ -e "$run/started" ]; then die "the machine died while the command ran"; fi
die "the kernel $version of $suite did not boot"
