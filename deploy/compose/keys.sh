#!/bin/sh
# Makes what the services of docker-compose.yml trust each other by: once; what is there stays.
# A CA and certificates in /authority, of which each service gets its own in /keys/SERVICE; in /access who may call.
set -eu
umask 077
if [ ! -e /authority/ca.pem ]; then
    gramserve certs init /authority --host localhost
fi
for service in gateway worker optimizer report redis client; do
    cp /authority/ca.pem "/keys/$service/ca.pem"
    cp "/authority/$service.pem" "/keys/$service/cert.pem"
    cp "/authority/$service.key" "/keys/$service/key.pem"
done
export GRAMSERVE_ACCESS_FILE=/access/access.yaml
principal() {  # principal NAME WORDS...: one that has a token in /keys/client/NAME.token
    name=$1
    shift
    gramserve principals add "$name" "$@"
    gramserve tokens create "$name" --days 365 >"/keys/client/$name.token"
}
if [ ! -e "$GRAMSERVE_ACCESS_FILE" ]; then
    principal lis --role submitter --role reviewer --laboratory '*'
    principal engineer --role model-publisher
    principal approver --role model-approver
    principal auditor --role auditor --laboratory '*'
    principal operator --role operator --laboratory '*'
fi
cp /authority/ca.pem /keys/prometheus/ca.pem
if [ ! -e /keys/grafana/password ]; then
    python -c 'import secrets; print(secrets.token_urlsafe(24), end="")' >/keys/grafana/password
fi
chmod 0644 /keys/*/ca.pem
echo "keys are ready"
