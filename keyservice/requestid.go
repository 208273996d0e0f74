package keyservice

import "context"

type requestID struct{}

// WithRequestID attaches the id under which a request appears in answers, logs and audit entries.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestID{}, id)
}

// RequestID returns the id attached to ctx, "" if there is none.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestID{}).(string)
	return id
}
