#!/usr/bin/env bash
# A phone, and a bank around it, made of tools that know nothing of Ramzban: curl calls the API, openssl holds the phone's
# key, unwraps the seed and makes the proof, oathtool makes the password. Prints the two verdicts.
# Usage: independent-phone.sh URL PKI-FOLDER CARD PROFILE HASH PERIOD-SECONDS (0: a counter)
set -euo pipefail
url=$1 pki=$2 card=$3 profile=$4 hash=$5 period=$6
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

call() { # WHO PATH [BODY]
  curl --silent --show-error --fail-with-body --max-time 10 --cacert "$pki/ca.crt" --cert "$pki/$1.crt" --key "$pki/$1.key" \
    --request POST ${3:+--header 'Content-Type: application/json' --data "$3"} "$url$2"
}

# The branch issues, the SMS gateway collects.
issued=$(call branch /v1/tokens "$(jq -n --arg card "$card" --arg profile "$profile" \
  '{class: "card", subject: $card, channel: "app", profile: $profile, uses: ["second-pin"]}')")
serial=$(jq -r .serial <<<"$issued")
code=$(call sms-gateway "/v1/codes/$(jq -r .activation.id <<<"$issued")/collection" | jq -r .code)

# The phone makes its key and asks for its seed.
openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$dir/phone.pem" 2>/dev/null ||
  openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$dir/phone.pem" 2>/dev/null
openssl pkey -in "$dir/phone.pem" -pubout -outform DER -out "$dir/phone.der"
activated=$(call mobile-bank "/v1/tokens/$serial/activation" "$(jq -n --arg card "$card" --arg code "$code" \
  --arg key "$(base64 -w0 "$dir/phone.der")" \
  '{subject: $card, activation_code: $code, device: {id: "openssl", channel: "app", public_key: $key}}')")
jq -r .seed.wrapped <<<"$activated" | base64 -d >"$dir/wrapped"
seed=$(openssl pkeyutl -decrypt -inkey "$dir/phone.pem" -in "$dir/wrapped" -pkeyopt rsa_padding_mode:oaep \
  -pkeyopt rsa_oaep_md:sha1 -pkeyopt rsa_mgf1_md:sha1 | od -An -v -tx1 | tr -d ' \n')

# It proves that it has the seed.
{ printf 'ramzban/confirm/1\0%s\0' "$serial"; openssl dgst -sha256 -binary "$dir/phone.der"; } >"$dir/message"
proof=$(openssl dgst "-$hash" -mac HMAC -macopt "hexkey:$seed" -binary "$dir/message" | base64 -w0)
call mobile-bank "/v1/tokens/$serial/confirmation" "$(jq -n --arg proof "$proof" '{proof: $proof}')" >/dev/null

# It makes a password, which is good once.
if [ "$period" = 0 ]; then
  password=$(oathtool --hotp --counter=0 --digits=6 - <<<"$seed")
else
  password=$(oathtool --totp="$hash" --time-step-size="${period}s" --digits=6 - <<<"$seed")
fi
for _ in once again; do
  call core-banking /v1/verifications "$(jq -n --arg serial "$serial" --arg otp "$password" \
    '{serial: $serial, use: "second-pin", otp: $otp}')" | jq -r '[.result, .reason // empty] | join(" ")'
done
