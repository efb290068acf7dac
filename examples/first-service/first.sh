#!/bin/sh
# Prints the subjects of a user's newest mails: sh first.sh CONNECTION. It needs curl 7.76 or newer, and jq.
set -eu
[ $# = 1 ] || { echo "usage: TOKENWARD_KEY_FILE=FILE sh first.sh CONNECTION" >&2; exit 2; }
name=$(jq -rn --arg name "$1" '$name | @uri')
url=${TOKENWARD_URL:-http://127.0.0.1:7070}/v1/apps/outlook/connections/$name/token?connect=1
mails=${GRAPH_URL:-https://graph.microsoft.com}/v1.0/me/messages'?$select=subject&$top=5'
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT

# curl with a bearer, which is no argument: others could read it in the list of processes.
call() {
  bearer=$1
  shift
  printf 'Authorization: Bearer %s\n' "$bearer" | curl -sS -H @- --max-time 20 -o "$folder/body" "$@"
}

# An access token that works now; its argument says which one Graph refused. curl waits as Retry-After says.
token() {
  key=$(cat "$TOKENWARD_KEY_FILE")
  if ! call "$key" --fail-with-body --retry 4 ${1:+-H 'Content-Type: application/json' -d "$1"} "$url"; then
    jq -r '"\(.code): \(.detail); \(.connect_url // .hint)"' "$folder/body" >&2
    return 1
  fi
  jq -r .access_token "$folder/body"
}

bearer=$(token)
status=$(call "$bearer" -D "$folder/head" -w '%{http_code}' "$mails")
if [ "$status" = 401 ]; then # revoked before its time: report it once, and use the token that comes
  claims=$(sed -n 's/^www-authenticate:.*claims="\([^"]*\)".*/\1/Ip' "$folder/head")
  rejected=$(printf %s "$bearer" | sha256sum | cut -d' ' -f1)
  bearer=$(token "{\"rejected\": \"$rejected\"${claims:+, \"claims\": \"$claims\"}}")
  status=$(call "$bearer" -w '%{http_code}' "$mails")
fi
if [ "$status" != 200 ]; then
  echo "Microsoft Graph answers $status" >&2
  exit 1
fi
jq -r '.value[].subject' "$folder/body"
