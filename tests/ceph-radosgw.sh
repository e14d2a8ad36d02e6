#!/bin/sh
# Runs a command against a real Ceph S3 gateway: one monitor, one OSD and one radosgw, on loopback, in a new folder
# below $TMPDIR, all ended and removed afterwards. Needs root and Debian's ceph-mon, ceph-osd and radosgw.
#
#   tests/ceph-radosgw.sh .venv/bin/python -m pytest tests/contract/test_stores.py -k foreign
set -eu
[ $# -gt 0 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }

root=$(mktemp -d "${TMPDIR:-/tmp}/cbtfleet-ceph.XXXXXX")
pids=
stop() {
    for pid in $pids; do  # the last one started first: an OSD wants to say goodbye to its monitor
        kill "$pid" 2>/dev/null || :
        wait "$pid" 2>/dev/null || :
    done
    rm -rf "$root"
}
trap stop EXIT
trap 'exit 130' INT TERM

await() {  # a condition that nothing announces: await SECONDS COMMAND...
    left=$1; shift
    until "$@" >"$root/await.log" 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || { echo "Ceph did not come up: $*" >&2; tail -n 5 "$root"/*.log >&2; exit 1; }
        sleep 1
    done
}
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
quietly() { "$@" >>"$root/setup.log" 2>&1; }

mon=$(free_port) rgw=$(free_port) fsid=$(cat /proc/sys/kernel/random/uuid)
export CEPH_CONF="$root/ceph.conf"
cat >"$CEPH_CONF" <<CONF
[global]
fsid = $fsid
mon_host = [v2:127.0.0.1:$mon/0]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
keyring = $root/keyring
run_dir = $root
admin_socket = $root/\$name.asok
pid_file = $root/\$name.pid
log_file = $root/\$name.log
mon_cluster_log_file = $root/cluster.log
crash_dir = $root
mon_data = $root/mon
mon_data_avail_crit = 1
mon_allow_pool_size_one = true
osd_data = $root/osd
osd_objectstore = bluestore
bluestore_block_size = 8589934592
osd_memory_target = 1500000000
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pg_autoscale_mode = off
[client.rgw]
rgw_data = $root/rgw
rgw_frontends = beast endpoint=127.0.0.1:$rgw
rgw_dns_name = s3.localhost
CONF

mkdir "$root/mon" "$root/osd" "$root/rgw"
quietly ceph-authtool -C "$root/keyring" --gen-key -n mon. --cap mon 'allow *'
quietly ceph-authtool "$root/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
quietly ceph-authtool "$root/keyring" --gen-key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *'
quietly ceph-authtool "$root/keyring" --gen-key -n client.rgw --cap mon 'allow rwx' --cap osd 'allow rwx'
quietly monmaptool --create --fsid "$fsid" --addv a "[v2:127.0.0.1:$mon]" "$root/monmap"
quietly ceph-mon --mkfs -i a --monmap "$root/monmap"
ceph-mon -f -i a >"$root/mon.out" 2>&1 & pids="$! $pids"
await 30 timeout 5 ceph status
osd=$(cat /proc/sys/kernel/random/uuid)
quietly ceph osd create "$osd" 0
quietly ceph-osd -i 0 --mkfs --osd-uuid "$osd"
ceph-osd -f -i 0 >"$root/osd.out" 2>&1 & pids="$! $pids"
radosgw -f -n client.rgw >"$root/rgw.out" 2>&1 & pids="$! $pids"

export TEST_S3_ENDPOINT="http://127.0.0.1:$rgw"
await 60 python3 -c "import urllib.request; urllib.request.urlopen('$TEST_S3_ENDPOINT', timeout=5)"
export AWS_ACCESS_KEY_ID=cbtfleet AWS_SECRET_ACCESS_KEY=cbtfleet-test AWS_DEFAULT_REGION=us-east-1
quietly radosgw-admin -n client.rgw user create --uid=cbtfleet --display-name=cbtfleet --max-buckets=0 \
    --access-key="$AWS_ACCESS_KEY_ID" --secret-key="$AWS_SECRET_ACCESS_KEY"
export TEST_CEPH_CONF="$CEPH_CONF"  # says that this cluster is ours: tests may make users
radosgw --version >&2
"$@"
