#!/bin/sh
# Makes what only the services of docker-compose.yml share, once, in infra/compose/secrets: Redis's password
# (redis_password), and for the S3 server's owner and each role a random key id and secret (s3_<name>).
# Files that exist are never touched.
set -eu
cd "$(dirname "$0")/secrets"
umask 077
random() { head -c "$1" /dev/urandom | od -An -tx1 | tr -d ' \n'; }
if [ ! -e redis_password ]; then
    random 24 >redis_password
    echo "wrote $PWD/redis_password"
fi
for name in owner scheduler worker restore; do
    [ ! -e "s3_$name" ] || continue
    printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$(random 10)" "$(random 20)" >"s3_$name"
    echo "wrote $PWD/s3_$name"
done
