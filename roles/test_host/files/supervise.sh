#!/bin/bash
# Boots one throw-away host, and boots it again when it asks for a reboot.
#
#   supervise.sh MACHINE BRIDGE FOLDER [ARGUMENT OF systemd-nspawn …]
#
# FOLDER/root is the host's root file system. Role test_host starts this, as a unit where systemd is PID 1 of the machine
# and as a daemon elsewhere; both end it by ending systemd-nspawn.
set -euo pipefail

machine=$1 bridge=$2 folder=$3
shift 3

nspawn=(
  systemd-nspawn --quiet
  --directory="$folder/root"
  --machine="$machine"
  --boot
  --network-bridge="$bridge"
  # Not every machine has a systemd to register with; cgroups are set up below, or by the unit that this runs in.
  --register=no --keep-unit
  # No terminal: what the host writes to its console goes to our log.
  --console=pipe
  # The host's own files say these.
  --resolv-conf=off --timezone=off --link-journal=no
  # As on a real host; else it would be whatever this machine allows itself.
  --rlimit=NOFILE=1024:524288
  "$@"
)

# The unit's Restart= does the rest.
if [ -d /run/systemd/system ]; then
  exec "${nspawn[@]}"
fi

# Each host needs cgroups of its own in the hierarchies that systemd keeps its units in: two hosts in the same ones would kill
# each other's services, for "all processes of nginx.service" would be those of both.
cgroups=()
for hierarchy in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
  if [ -e "$hierarchy/cgroup.procs" ]; then
    cgroups+=("$hierarchy/flask-on-metal-test-$machine")
  fi
done

remove_cgroups() {
  local cgroup
  for cgroup in "${cgroups[@]}"; do
    [ ! -d "$cgroup" ] || find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
}
trap remove_cgroups EXIT

status=133  # how systemd-nspawn says: the host wants to reboot
while [ "$status" -eq 133 ]; do
  remove_cgroups
  mkdir -p "${cgroups[@]}"
  status=0
  (
    # Only systemd-nspawn goes in, not this loop: a cgroup with processes of its own can't hand on controllers.
    for cgroup in "${cgroups[@]}"; do echo "$BASHPID" >"$cgroup/cgroup.procs"; done
    exec "${nspawn[@]}"
  ) || status=$?
done
exit "$status"
