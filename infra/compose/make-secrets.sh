#!/bin/sh
# Makes the S3 server's credentials, once: a random key id and secret in infra/compose/secrets/s3_credentials.
# Files that exist are never touched.
set -eu
cd "$(dirname "$0")/secrets"
umask 077
random() { head -c "$1" /dev/urandom | od -An -tx1 | tr -d ' \n'; }
if [ ! -e s3_credentials ]; then
    printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$(random 10)" "$(random 20)" >s3_credentials
    echo "wrote $PWD/s3_credentials"
fi
