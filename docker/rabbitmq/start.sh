#!/bin/sh
# Puts the passwords of the environment into the definitions, and starts the broker as the image does.
set -eu
: "${RELAY_PASSWORD:?}" "${ADMIN_PASSWORD:?}"
case $RELAY_PASSWORD$ADMIN_PASSWORD in
*[!A-Za-z0-9._~-]*) echo 'passwords: letters, digits and . _ ~ - only, since they stand in URLs' >&2; exit 64 ;;
esac
umask 077
sed "s/RELAY_PASSWORD/$RELAY_PASSWORD/; s/ADMIN_PASSWORD/$ADMIN_PASSWORD/" \
    /etc/rabbitmq/definitions.template.json > /var/lib/rabbitmq/definitions.json
chown rabbitmq:rabbitmq /var/lib/rabbitmq/definitions.json
exec docker-entrypoint.sh rabbitmq-server
