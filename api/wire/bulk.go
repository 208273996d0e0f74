package wire

// BulkLine is one line of a bulk issue (POST /v1/tokens/bulk): a token to issue, under an idempotency key of its own.
type BulkLine struct {
	Key   string       `json:"key" pattern:"^[!-~]{1,128}$" doc:"The line's idempotency key: the same line under the same key gets the same token" example:"batch-7-000001"`
	Token IssueRequest `json:"token" doc:"The token to issue"`
}

// BulkEnd is the last line of a bulk issue. Without it, or when it counts other lines than came, the upload was cut.
type BulkEnd struct {
	End   bool `json:"end" enum:"true" doc:"Always true"`
	Lines int  `json:"lines" minimum:"0" doc:"How many lines came before this one" example:"100000"`
}

// BulkAnswer answers one line of a bulk issue: with a token, or with a problem.
type BulkAnswer struct {
	Line       int         `json:"line" doc:"Number of the line that is answered, counted from 1" example:"1"`
	Key        string      `json:"key,omitempty" doc:"Its key; none if the line had none of the documented form" example:"batch-7-000001"`
	Serial     string      `json:"serial,omitempty" doc:"12 digits, the last a Luhn check digit" example:"402519938466"`
	Status     string      `json:"status,omitempty" enum:"issued,active" doc:"issued: nothing can be verified yet; active: an SMS token, which nobody has to activate"`
	Activation *Activation `json:"activation,omitempty" doc:"Where the activation code waits; none for an SMS token"`
	Repeated   bool        `json:"repeated" doc:"Whether this is the answer to an earlier line of the same key"`
	Problem    *Problem    `json:"problem,omitempty" doc:"Why no token was issued for this line; the lines after it go on"`
}

// BulkSummary counts what became of the lines of a bulk issue. Lines is the sum of Issued, Repeated and Refused.
type BulkSummary struct {
	Lines    int      `json:"lines" doc:"How many lines came and were answered" example:"100000"`
	Issued   int      `json:"issued" doc:"How many of them issued a token now" example:"99998"`
	Repeated int      `json:"repeated" doc:"How many had their token from an earlier line of the same key" example:"1"`
	Refused  int      `json:"refused" doc:"How many were answered with a problem" example:"1"`
	Complete bool     `json:"complete" doc:"Whether the lines and their last line arrived whole"`
	Problem  *Problem `json:"problem,omitempty" doc:"Why they did not; send the same lines with the same keys again"`
}

// BulkResult is the last line of the answer to a bulk issue. Without it, the answer was cut.
type BulkResult struct {
	Summary BulkSummary `json:"summary" doc:"What became of the lines"`
}
