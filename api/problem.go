package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/valyala/fasthttp"

	"ramzban/api/wire"
	"ramzban/keyservice"
)

// meaning is what a code means to a client: the HTTP status, a title, what to do about it (which is also the detail of an
// error that carries none), and, where trying again later helps, after how long.
type meaning struct {
	status int
	title  string
	detail string
	retry  time.Duration
}

// meanings is the one error map: every code of the use cases and of the transport has a row here, and nothing else
// turns an error into a status.
var meanings = map[string]meaning{
	wire.CodeCertificateRequired: {401, "Client certificate required", "present a client certificate in the TLS handshake", 0},
	wire.CodeCertificateExpired:  {401, "Client certificate expired", "connect again with a valid client certificate", 0},
	wire.CodeCertificateRevoked:  {401, "Client certificate revoked", "connect again with a valid client certificate", 0},
	wire.CodeCertificateUnknown:  {403, "Client certificate unknown", "have the operator configure a client of this certificate's name, or present another", 0},
	wire.CodeTooManyRequests:     {429, "Too many requests", "asked too often, or denied too often: wait as long as Retry-After says", time.Second},
	wire.CodeRouteNotFound:       {404, "No such route", "see /openapi.json for the routes", 0},
	wire.CodeMethodNotAllowed:    {405, "Method not allowed", "see /openapi.json for the methods of this route", 0},
	wire.CodeRequestMalformed:    {400, "Malformed request", "send HTTP/1.1; this request could not be read as such", 0},
	wire.CodeRequestTimeout:      {408, "Request timeout", "send the request again, whole and faster: it did not arrive in time", 0},
	wire.CodeHeaderTooLarge:      {431, "Header too large", "send fewer or shorter header lines: the request's header is above the limit", 0},
	wire.CodeBodyTooLarge:        {413, "Body too large", "send less: the request's body is above the limit", 0},
	wire.CodeBodyMalformed:       {400, "Malformed body", "send one JSON document in UTF-8, each field once", 0},
	wire.CodeBodyRequired:        {400, "Body required", "send a JSON body: this route needs one", 0},
	wire.CodeBodyUnexpected:      {400, "Unexpected body", "send no body: this route takes none", 0},
	wire.CodeEncodingUnsupported: {415, "Encoding not supported", "send the body without Content-Encoding", 0},
	wire.CodeMediaUnsupported:    {415, "Media type not supported", "send the body as application/json", 0},
	wire.CodeUploadCut:           {400, "Upload cut", "send the same lines with the same keys again: they ended without the last line that counts them, and lines that were carried out get the same answers", 0},
	wire.CodeNotReady:            {503, "Not ready", "send requests to another node until this one is ready", 5 * time.Second},

	string(keyservice.CodeDenied):              {403, "Not allowed", "use a client with the route's role, or have the operator give it to this one: this client's roles do not allow it", 0},
	string(keyservice.CodeInvalid):             {422, "Invalid request", "correct what errors or detail name: the request does not have the documented form", 0},
	string(keyservice.CodeSubjectInvalid):      {422, "Invalid subject", "correct the card number or account id: it is mistyped or not of the documented form", 0},
	string(keyservice.CodeSerialInvalid):       {422, "Invalid serial", "correct the serial: it is 12 digits, the last a check digit", 0},
	string(keyservice.CodeProfileUnknown):      {422, "Unknown profile", "name a configured profile", 0},
	string(keyservice.CodeOTPMalformed):        {422, "Malformed password", "have the password typed again: digits only, exactly as many as the token shows", 0},
	string(keyservice.CodeDeviceKeyInvalid):    {422, "Unsuitable device key", "make another device key: RSA of 2048 to 4096 bits, as DER SubjectPublicKeyInfo", 0},
	string(keyservice.CodeTokenNotFound):       {404, "No such token", "check the serial: no token has it", 0},
	string(keyservice.CodeCodeNotFound):        {404, "No such code", "check the id: no code of this id waits; a renewed or used one is gone", 0},
	string(keyservice.CodeLiveTokenExists):     {409, "A live token exists", "use that token, or deactivate it before another is issued", 0},
	string(keyservice.CodeTransition):          {409, "Not possible in this status", "look at the token's status: it does not allow this", 0},
	string(keyservice.CodeDeviceOther):         {409, "Another device", "go on with the device that began, or deactivate the token and issue another", 0},
	string(keyservice.CodeChannelOther):        {409, "Another channel", "activate it in the channel it was issued for, or issue another token", 0},
	string(keyservice.CodeDeviceKeyNotPinned):  {409, "Another device key", "activate it with the device key it was issued for, or issue another token", 0},
	string(keyservice.CodeActivationExpired):   {409, "Activation code expired", "have the issuer make a fresh activation code", 0},
	string(keyservice.CodeActivationExhausted): {409, "Activation code exhausted", "have the issuer make a fresh activation code: too many wrong ones were tried", 0},
	string(keyservice.CodeProposalNotFound):    {404, "No such proposal", "check the id: no proposal has it", 0},
	string(keyservice.CodeProposalExists):      {409, "Proposed before", "look at the proposal under its id, or sign a new one: this very document was taken before", 0},
	string(keyservice.CodeProposalClosed):      {409, "Proposal closed", "look at the proposal's status: it has expired, or does not wait any more; propose it anew", 0},
	string(keyservice.CodeProposalsPending):    {429, "Too many proposals", "wait as long as Retry-After says: one officer made too many proposals within a day", time.Hour},
	string(keyservice.CodeNotProposer):         {403, "Not the proposer", "have its proposer withdraw it: nobody else can", 0},
	string(keyservice.CodeNotOfficer):          {403, "Not an officer", "have the officers name this person first: proposer and approver must both be officers of this installation", 0},
	string(keyservice.CodeSamePerson):          {403, "Second person required", "have another officer approve it: nobody approves what they proposed, whichever certificate they use", 0},
	string(keyservice.CodeSignatureInvalid):    {422, "Invalid signature", "sign the exact bytes of the document with the key of your own client certificate", 0},
	string(keyservice.CodeDocumentInvalid):     {422, "Invalid document", "make the document with ramzban, for this installation and proposal: it is not what can be approved here", 0},
	string(keyservice.CodeTampered):            {409, "Stored data was changed", "stop and tell the operator: the data was changed outside the service and stays refused until someone has looked into it", 0},
	string(keyservice.CodeLogChanged):          {409, "The audit log was changed", "keep the database as it is, and compare the log with a witness or an archive: it was changed outside the service", 0},
	string(keyservice.CodeCheckpointNotFound):  {404, "No checkpoint", "check the node's name, or ask again in a moment: nothing of this log has been signed", 0},
	string(keyservice.CodeActivationWrong):     {403, "Wrong activation code", "check code, serial and subject: they do not belong together, and few tries are left", 0},
	string(keyservice.CodeProofWrong):          {403, "Wrong proof", "activate again on the device: it does not have this token's seed", 0},
	string(keyservice.CodeSeedInvalid):         {422, "Unsuitable seed", "have the maker wrap the seed again: 20 to 64 bytes, RSA-OAEP under the key of GET /v1/import-key", 0},
	string(keyservice.CodeSeedInUse):           {409, "Seed in use", "deactivate the token that has this seed: one device is one token", 0},
	string(keyservice.CodeKeyReused):           {422, "Idempotency key used before", "use a new Idempotency-Key for a new request: this one belongs to a request with another body", 0},
	string(keyservice.CodePINMissing):          {409, "No PIN set", "set the customer's PIN first: this token's passwords are made with it", 0},
	string(keyservice.CodeNotOptedIn):          {409, "No SMS passwords", "let the customer use the offline password, or opt in: nothing is sent to this subject for this use", 0},
	string(keyservice.CodeChallengesPending):   {429, "Too many pending challenges", "wait as long as Retry-After says, or use the code that was sent", 0},
	string(keyservice.CodeActivationThrottled): {429, "Too many wrong activation codes", "wait as long as Retry-After says, or activate by serial: too many wrong codes came for this subject", 0},
	string(keyservice.CodeTooManySubjects):     {429, "Too many subjects", "wait as long as Retry-After says: this client failed for too many different subjects within the hour", 0},
	string(keyservice.CodeKeyRetired):          {409, "Master key retired", "tell the security team: what is stored names a master key that was retired before this was moved to its successor", 0},
	string(keyservice.CodeKeyDestroyed):        {409, "Master key destroyed", "tell the security team, and issue a new token: what is stored cannot be read any more", 0},
	string(keyservice.CodeKeyUnknown):          {404, "No such master key", "look at the keys: the HSM has none of this label and version that gives its known answer", 0},
	string(keyservice.CodeKeyNeeded):           {409, "Master key still needed", "something depends on it, or new things are made under it: the detail says what; rotate, and wait until that is done", 0},
	string(keyservice.CodeRotationNotFound):    {404, "No such rotation", "list the rotations: none has this id", 0},
	string(keyservice.CodeRotationRunning):     {409, "Rotation not done", "wait until the rotation is done, or look at what keeps it", 0},
	string(keyservice.CodeHSMUnavailable):      {503, "HSM unavailable", "try again after Retry-After; if it lasts, tell the operator: nothing was decided", 5 * time.Second},
	string(keyservice.CodeStorageUnavailable):  {503, "Storage unavailable", "try again after Retry-After; if it lasts, tell the operator: nothing was decided", 5 * time.Second},
	string(keyservice.CodeStorageFull):         {503, "Storage full", "tell the operator: the database's disk is nearly full, and nothing can be decided until there is space", 60 * time.Second},
	string(keyservice.CodeOutcomeUnknown):      {503, "Outcome unknown", "it is not known whether this was done: repeat it under the same Idempotency-Key, or without one look before you repeat it", 0},
	string(keyservice.CodeBusy):                {503, "Busy", "too much at once: try again", time.Second},
	string(keyservice.CodeInternal):            {500, "Internal error", "give the operator the request id: the log says why", 0},
}

// Problem is wire.Problem as huma answers and documents it.
type Problem struct{ wire.Problem }

// GetStatus implements huma.StatusError.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType implements huma.ContentTypeFilter.
func (p *Problem) ContentType(string) string { return problemType }

const problemType = "application/problem+json"

// problem makes the answer for a code and remembers it for the log. An empty detail is replaced by the code's own.
func (x *exchange) problem(code, detail string, where ...string) *Problem {
	m, known := meanings[code]
	if !known || code == string(keyservice.CodeInternal) {
		code, detail, m = string(keyservice.CodeInternal), "", meanings[string(keyservice.CodeInternal)]
	}
	if detail == "" {
		detail = m.detail
	}
	x.code = code
	return &Problem{wire.Problem{
		Type: "/docs#" + code, Title: m.title, Status: m.status, Code: code, Detail: detail, Errors: where, RequestID: x.id,
	}}
}

// refuse turns an error of a use case into its answer. The cause goes to the log, never to the client.
func refuse(ctx context.Context, err error) *Problem {
	x := exchangeOf(ctx)
	x.cause = err
	var e *keyservice.Error
	switch {
	case errors.As(err, &e):
		x.retry, x.replayed = e.RetryAfter, e.Repeated
		return x.problem(string(e.Code), e.Detail)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return x.problem(string(keyservice.CodeOutcomeUnknown), "")
	}
	return x.problem(string(keyservice.CodeInternal), "")
}

// write answers with the problem on the bare connection, for errors that no route handles, in the bytes a route would.
func (p *Problem) write(ctx *fasthttp.RequestCtx) {
	ctx.Response.ResetBody()
	ctx.Response.SetStatusCode(p.Status)
	ctx.Response.Header.SetContentType(problemType)
	if err := jsonFormat.Marshal(ctx.Response.BodyWriter(), p); err != nil { // cannot be: strings and numbers, into memory
		ctx.Response.ResetBody()
	}
}

// humaProblem is how huma's own refusals (a body against its schema) become problems. Their values and any text that
// repeats the request are dropped: where and what form is expected is all a client is told.
func humaProblem(ctx huma.Context, status int, _ string, errs ...error) huma.StatusError {
	x := exchangeOf(ctx.Context())
	switch status {
	case http.StatusUnprocessableEntity:
		return x.problem(string(keyservice.CodeInvalid), "", x.places(errs)...)
	case http.StatusBadRequest:
		if len(errs) == 0 {
			return x.problem(wire.CodeBodyRequired, "")
		}
		return x.problem(wire.CodeBodyMalformed, bodyFault(errs))
	case http.StatusUnsupportedMediaType:
		return x.problem(wire.CodeMediaUnsupported, "")
	case http.StatusRequestEntityTooLarge:
		return x.problem(wire.CodeBodyTooLarge, "")
	}
	x.cause = errors.Join(errs...)
	return x.problem(string(keyservice.CodeInternal), "")
}

// byStatus is what Fiber's own refusals are called.
var byStatus = map[int]string{
	http.StatusBadRequest:                  wire.CodeRequestMalformed,
	http.StatusNotFound:                    wire.CodeRouteNotFound,
	http.StatusMethodNotAllowed:            wire.CodeMethodNotAllowed,
	http.StatusRequestTimeout:              wire.CodeRequestTimeout,
	http.StatusRequestEntityTooLarge:       wire.CodeBodyTooLarge,
	http.StatusRequestHeaderFieldsTooLarge: wire.CodeHeaderTooLarge,
}

// routeProblem is the answer when no route takes the request.
func routeProblem(x *exchange, status int) *Problem {
	return x.problem(cmp.Or(byStatus[status], string(keyservice.CodeInternal)), "")
}

// connectionProblem is the answer when what arrives cannot be read as a request within the limits.
func connectionProblem(x *exchange, err error) *Problem {
	var small *fasthttp.ErrSmallBuffer
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &small):
		return x.problem(wire.CodeHeaderTooLarge, "")
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		return x.problem(wire.CodeBodyTooLarge, "")
	case errors.As(err, &timeout) && timeout.Timeout():
		return x.problem(wire.CodeRequestTimeout, "")
	}
	return x.problem(wire.CodeRequestMalformed, "")
}

// retryAfter is the code's Retry-After header in seconds; "" if repeating would not help or not be safe.
func retryAfter(code string) string { return wholeSeconds(meanings[code].retry) }

// retryAfter is the answer's Retry-After header: the exchange's own time to wait, else its code's.
func (x *exchange) retryAfter() string { return wholeSeconds(cmp.Or(x.retry, meanings[x.code].retry)) }

// wholeSeconds rounds up: who waits that long has waited enough. It is "" for none.
func wholeSeconds(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return strconv.Itoa(int((d + time.Second - 1) / time.Second))
}

// codesOf lists the codes in the order of their status, then name.
func codesOf(codes map[string]meaning) []string {
	sorted := make([]string, 0, len(codes))
	for c := range codes {
		sorted = append(sorted, c)
	}
	slices.SortFunc(sorted, func(a, b string) int {
		return cmp.Or(cmp.Compare(codes[a].status, codes[b].status), cmp.Compare(a, b))
	})
	return sorted
}
