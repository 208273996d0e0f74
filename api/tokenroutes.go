package api

import (
	"net/http"

	"ramzban/keyservice"
	"ramzban/keyservice/authz"
)

const tokenPath = "/v1/tokens/{serial}"

// tokenRoutes are the life of a token: enrolment, what its issuer may change, and its end.
func (s *Server) tokenRoutes() {
	s.enrolmentRoutes()
	handle(s, tokenRoute(get, "", "token", authz.Issuer, "Show a token", "No secret is in the answer."), s.token)
	handle(s, tokenRoute(put, "/uses", "set-uses", authz.Issuer, "Connect a token to uses",
		"The body names all of them: uses it does not name are disconnected, and none is allowed. Its passwords are good for these "+
			"uses only.", keyservice.CodeTransition), s.setUses)
	handle(s, tokenRoute(put, "/pin", "set-pin", authz.Issuer, "Set the PIN of a token",
		"For tokens whose passwords are made with a PIN (`pin_digits`). The device asks its customer for it; here only a digest is "+
			"kept, encrypted in the HSM. Until it is set, no password can be verified.", keyservice.CodeTransition), s.setPIN)
	handle(s, tokenRoute(put, "/mobile", "set-mobile", authz.Issuer, "Change the mobile number of a token",
		"Its codes go to the new number from now on; a customer's other token has a number of its own. What was on its way to the "+
			"old number dies: SMS passwords that wait, and the activation code of a token that is not activated yet. Such a token gets "+
			"a fresh code, whose id is in the answer.", keyservice.CodeTransition), s.setMobile)
	handle(s, tokenRoute(post, "/suspend", "suspend", authz.Issuer, "Suspend an active token",
		"Its passwords are refused until it is resumed.", keyservice.CodeTransition), s.suspend)
	handle(s, tokenRoute(post, "/resume", "resume", authz.Issuer, "Resume a suspended token",
		"Its passwords are accepted again.", keyservice.CodeTransition), s.resume)
	handle(s, tokenRoute(post, "/unlock", "unlock", authz.Issuer, "Forgive a token's wrong passwords",
		"For a customer whose identity was checked some other way: the misses of every use that the token is connected to are "+
			"forgotten, and no password of them is delayed any more. Its customer can do the same with `resync`.",
		keyservice.CodeTransition), s.unlock)
	handle(s, tokenRoute(post, "/deactivate", "deactivate", authz.Issuer, "Deactivate a token for ever",
		"Its seed is forgotten, and the subject may be issued another token.", keyservice.CodeTransition), s.deactivate)
	handle(s, route{
		method: post, path: "/v1/subjects/tokens", id: "subject-tokens", role: authz.Issuer, status: http.StatusOK,
		summary: "Show a customer's tokens",
		description: "For who has the customer's card but not the serial. The subject stands in the body: card numbers never stand " +
			"in a URL. No secret is in the answer.",
		codes: []keyservice.Code{keyservice.CodeSubjectInvalid, keyservice.CodeTampered},
	}, s.subjectTokens)
	handle(s, route{
		method: post, path: "/v1/subjects/deactivations", id: "deactivate-subject", role: authz.Issuer, status: http.StatusOK,
		summary: "Deactivate all tokens of a customer",
		description: "Offline and SMS tokens alike, all at once. The subject stands in the body: card numbers never stand in a URL. " +
			"A subject that has no live token is answered with no serials.",
		codes: []keyservice.Code{keyservice.CodeSubjectInvalid, keyservice.CodeTampered},
	}, s.deactivateSubject)
}

// enrolmentRoutes take a token from nothing to active, and off its phone again.
func (s *Server) enrolmentRoutes() {
	handle(s, route{
		method: post, path: "/v1/tokens", id: "issue", role: authz.Issuer, status: http.StatusCreated,
		summary: "Issue a token for a card or account",
		description: "The token has no seed yet. Its activation code waits for the courier under the id in the answer. An SMS token " +
			"is different: nobody has to activate it, so it is active at once and has no activation code.",
		codes: []keyservice.Code{keyservice.CodeSubjectInvalid, keyservice.CodeProfileUnknown, keyservice.CodeLiveTokenExists,
			keyservice.CodeTampered},
	}, s.issue)
	handle(s, tokenRoute(post, "/activation-code", "renew-activation-code", authz.Issuer, "Make a fresh activation code",
		"For a token that is not activated yet. The old code dies.", keyservice.CodeTransition), s.renewCode)
	handle(s, tokenRoute(post, "/activation", "activate", authz.Activator, "Activate a token on one device",
		"The seed is born in the HSM and comes wrapped to the device's key. The same device may repeat the call until the "+
			"token is confirmed. Five wrong activation codes exhaust the code. A hardware token has no `device`: its maker's seed goes "+
			"into the HSM as `maker_seed`, wrapped to the key of GET /v1/import-key, and none comes back.",
		keyservice.CodeDeviceKeyInvalid, keyservice.CodeTransition, keyservice.CodeChannelOther, keyservice.CodeDeviceKeyNotPinned,
		keyservice.CodeDeviceOther, keyservice.CodeActivationExpired, keyservice.CodeActivationExhausted,
		keyservice.CodeActivationWrong, keyservice.CodeSeedInvalid, keyservice.CodeSeedInUse), s.activate)
	handle(s, route{
		method: post, path: "/v1/activations", id: "activate-subject", role: authz.Activator, status: http.StatusOK,
		summary: "Activate a customer's token without its serial",
		description: "As `activate`, for a customer who was given a code but no serial: the token is the one that the subject has to " +
			"make passwords offline. Until the code is right and alive, every answer is that of a wrong code: it does not tell whether " +
			"the subject has a token. Wrong codes use up no try of the code but guesses of the subject: too many of them must be waited out.",
		codes: []keyservice.Code{keyservice.CodeSubjectInvalid, keyservice.CodeTooManySubjects, keyservice.CodeTampered,
			keyservice.CodeDeviceKeyInvalid, keyservice.CodeActivationWrong, keyservice.CodeActivationThrottled, keyservice.CodeTransition,
			keyservice.CodeChannelOther, keyservice.CodeDeviceKeyNotPinned, keyservice.CodeDeviceOther, keyservice.CodeSeedInvalid, keyservice.CodeSeedInUse},
	}, s.activateSubject)
	handle(s, tokenRoute(post, "/confirmation", "confirm", authz.Activator, "Prove that the device has the seed",
		"Makes a pending token active. A phone gives a `proof`, which uses up no password. A hardware token can make nothing but "+
			"passwords: it gives one as `otp`, which is used up; five wrong ones end the attempt.",
		keyservice.CodeTransition, keyservice.CodeProofWrong, keyservice.CodeOTPMalformed, keyservice.CodeActivationExhausted), s.confirm)
	handle(s, tokenRoute(post, "/removal", "remove", authz.Activator, "Give a token up from the phone that holds it",
		"Deactivates the token for ever: its seed is forgotten, and the subject may be issued another token. The phone proves with "+
			"the seed that it holds the token; only the issuer can deactivate without it. A phone that heard no answer asks again, and "+
			"is told `transition_not_allowed` if the token has ended.",
		keyservice.CodeTransition, keyservice.CodeProofWrong), s.remove)
	handle(s, route{
		method: get, path: "/v1/import-key", id: "import-key", role: authz.Activator, status: http.StatusOK,
		summary: "Show the key for makers of hardware tokens",
		description: "A maker encrypts each token's seed to it (RSA-OAEP with SHA-1 and MGF1-SHA-1, no label); only the HSM can decrypt " +
			"it. Compare it with the one of the key ceremony before it is handed to a maker.",
	}, s.importKey)
}

// tokenRoute is a route below one token, with the refusals all of them share.
func tokenRoute(method, path, id string, role authz.Role, summary, description string, codes ...keyservice.Code) route {
	return route{
		method: method, path: tokenPath + path, id: id, role: role, status: http.StatusOK, summary: summary, description: description,
		codes: append(codes, keyservice.CodeSerialInvalid, keyservice.CodeTokenNotFound, keyservice.CodeTampered),
	}
}
