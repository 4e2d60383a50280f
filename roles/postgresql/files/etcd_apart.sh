#!/bin/sh
# Has etcd led from another host than the databases. A new leader of etcd gives the lease of the databases' leader all of its time anew, so the loss
# of a host that led both would cost both waits, one after the other.
#
# Patroni calls it on each host that starts or changes its role, with: etcd's URL here, the folder of certificates, the event, the role, the cluster.
set -eu
endpoint=$1
folder=$2
role=$4

# Patroni 4 says primary, Patroni 3 master.
case "$role" in primary | master) ;; *) exit 0 ;; esac

export ETCDCTL_API=3 ETCDCTL_ENDPOINTS="$endpoint"
export ETCDCTL_CACERT="$folder/authority.pem" ETCDCTL_CERT="$folder/certificate.pem" ETCDCTL_KEY="$folder/key.pem"

# URL, id, version, size, whether it leads, … of each member that answers; one that doesn't makes it an error.
members=$(etcdctl --command-timeout=5s endpoint status --cluster 2>/dev/null) || true
case "$(printf '%s\n' "$members" | awk -F', ' -v here="$endpoint" '$1 == here {print $5}')" in
  true) ;;
  false) exit 0 ;;
  *) echo "etcd at $endpoint doesn't answer" >&2; exit 1 ;;
esac
for other in $(printf '%s\n' "$members" | awk -F', ' -v here="$endpoint" '$1 != here {print $2}'); do
  if etcdctl move-leader "$other"; then exit 0; fi
done
exit 1
