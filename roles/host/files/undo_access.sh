#!/bin/bash
# Puts back how this host was reached: files, our nftables table, sshd. Run by flask-on-metal-undo.timer, unless a new
# connection has confirmed the change before. The module host_access keeps what there was in `armed`.
#
# Without `set -e`: each step is worth trying, whatever became of the one before.
set -uo pipefail
cd /var/lib/flask-on-metal/access || exit 1

# Whoever renames it first has decided: this, or the confirmation.
mv armed undoing 2>/dev/null || [ -d undoing ] || exit 0

xargs --no-run-if-empty --delimiter='\n' rm -f -- <undoing/absent
(cd undoing/before && find . ! -type d -printf '%P\n') | while IFS= read -r path; do
  cp --archive "undoing/before/$path" "/$path.undo" && mv --no-target-directory "/$path.undo" "/$path"
done
systemctl daemon-reload

# An open way in matters more than closed ports: rules that don't load are left out.
if [ -e undoing/table_was_loaded ] && [ -e /etc/flask-on-metal/firewall.nft ]; then
  nft --file /etc/flask-on-metal/firewall.nft || nft delete table inet flask_on_metal
  systemctl start flask-on-metal-firewall.service
else
  systemctl stop flask-on-metal-firewall.service 2>/dev/null
  nft delete table inet flask_on_metal 2>/dev/null
fi
cp undoing/loaded loaded 2>/dev/null || rm -f loaded
# A reload kills an sshd that ssh.socket started.
if systemctl is-active --quiet ssh.socket; then
  systemctl try-restart ssh.service
else
  systemctl try-reload-or-restart ssh.service
fi

rm -rf undone
mv undoing undone
systemctl --no-block stop flask-on-metal-undo.timer
rm -f /etc/systemd/system/timers.target.wants/flask-on-metal-undo.timer /etc/systemd/system/flask-on-metal-undo.{timer,service}
systemctl --no-block daemon-reload
echo "The last change of firewall or sshd was taken back."
