#!/bin/sh
# Makes a certificate authority in DIR/ca and a daemon's certificate in DIR/REGION for each region, where there is none yet.
#   make-certs.sh DIR REGION...
set -eu

dir=$1
shift
owner=10001:10001 # the daemon's user, as in the Containerfile

[ -e "$dir/ca/ca.key" ] || isochrone certs ca --dir "$dir/ca"
for region in "$@"; do
    [ -e "$dir/$region/node.key" ] || isochrone certs node --ca-dir "$dir/ca" --region "$region" --dir "$dir/$region" --valid-for 825d
    # Only root can give files away; a trial run by hand keeps them.
    [ "$(id -u)" != 0 ] || chown -R "$owner" "$dir/$region"
done
