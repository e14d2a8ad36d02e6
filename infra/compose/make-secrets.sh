#!/bin/sh
# Makes what only the services of docker-compose.yml share, once, in infra/compose/secrets: the S3 server's key id and
# secret (s3_credentials) and Redis's password (redis_password).
# Files that exist are never touched.
set -eu
cd "$(dirname "$0")/secrets"
umask 077
random() { head -c "$1" /dev/urandom | od -An -tx1 | tr -d ' \n'; }
if [ ! -e s3_credentials ]; then
    printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$(random 10)" "$(random 20)" >s3_credentials
    echo "wrote $PWD/s3_credentials"
fi
if [ ! -e redis_password ]; then
    random 24 >redis_password
    echo "wrote $PWD/redis_password"
fi
