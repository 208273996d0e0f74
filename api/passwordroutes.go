package api

import (
	"net/http"

	"ramzban/keyservice"
	"ramzban/keyservice/authz"
)

// passwordRoutes are what is done with passwords: verified, sent, and used to find a token again.
func (s *Server) passwordRoutes() {
	handle(s, route{
		method: post, path: "/v1/verifications", id: "verify", role: authz.Verifier, status: http.StatusOK,
		summary: "Is this password genuine and unused?",
		description: "The request names either the token by `serial`, or whose password it is by `class` and `subject`: then whatever that " +
			"subject has for the use is tried, an SMS password that waits as well as the offline token, and the answer's `kind` says which " +
			"it was. A subject that has nothing is refused like a wrong password.\n\n" +
			"With a `transaction`, a password that is bound to another one is refused, and so is one that is bound to none, unless the " +
			"token's profile allows it; `bound` says whether it was bound to this one.\n\n" +
			"A refused password is an answer (200, result refused), not an error. A password is accepted at most once, " +
			"and only after that fact is on disk. After `outcome_unknown` or a lost connection it may have been used up: repeat the request " +
			"with the same `Idempotency-Key`, and the first answer comes again. " +
			"A use that no configuration names is `request_invalid` (422); one that is configured, but not among the token's, is " +
			"refused as `not_connected`.\n\n" +
			"With `receipt`, the answer carries what the log says of the decision, signed with the audit key. It is signed when the " +
			"decision is on disk: if that fails, the verdict stands, and the answer says why the receipt is missing.",
		codes: []keyservice.Code{keyservice.CodeSerialInvalid, keyservice.CodeSubjectInvalid, keyservice.CodeOTPMalformed,
			keyservice.CodeTokenNotFound, keyservice.CodeTampered, keyservice.CodePINMissing, keyservice.CodeTooManySubjects},
	}, s.verify)
	handle(s, route{
		method: post, path: "/v1/challenges", id: "challenge", role: authz.Verifier, status: http.StatusCreated,
		summary: "Ask for an SMS password",
		description: "For a subject that has opted in: that has an SMS token of the use. The answer is an id, with which the courier " +
			"collects the password and sends it to the customer; it is verified by class and subject. A password is good for one " +
			"use, for the `transaction` it was asked for, and once. At most three wait at a time, and none makes another invalid.",
		codes: []keyservice.Code{keyservice.CodeSubjectInvalid, keyservice.CodeNotOptedIn, keyservice.CodeChallengesPending,
			keyservice.CodeTooManySubjects, keyservice.CodeTampered},
	}, s.challenge)
	handle(s, route{
		method: post, path: "/v1/codes/{id}/collection", id: "collect-code", role: authz.Courier, status: http.StatusOK,
		summary: "Collect a code to send to its customer",
		description: "An activation code or an SMS password, by `kind`. May be repeated while the code lives; the same code comes again. " +
			"The message to the customer must show the transaction, if there is one: it is what the password is good for.",
		codes: []keyservice.Code{keyservice.CodeCodeNotFound, keyservice.CodeActivationExpired, keyservice.CodeActivationExhausted,
			keyservice.CodeTampered},
	}, s.collectCode)
	handle(s, tokenRoute(post, "/resync", "resync", authz.Activator, "Find a token again whose clock or counter went astray",
		"Two consecutive passwords, searched for over a wider window than a verification's; both are used up. They prove possession, so "+
			"they also end every delay and lock of the token's uses. Passwords that are not found are an answer (200, result refused), and "+
			"count as one guess here.", keyservice.CodeOTPMalformed, keyservice.CodePINMissing), s.resync)
}
