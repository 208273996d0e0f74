package wire

// The codes of problems that arise before a use case is reached. Those of the use cases are documented with each route
// in the OpenAPI document; together they are the whole list.
const (
	CodeCertificateRequired = "certificate_required"     // the connection carries no client certificate
	CodeCertificateExpired  = "certificate_expired"      // it expired while the connection was open
	CodeCertificateRevoked  = "certificate_revoked"      // it was withdrawn while the connection was open
	CodeCertificateUnknown  = "certificate_unknown"      // it is trusted, but belongs to no configured client
	CodeTooManyRequests     = "too_many_requests"        // this client asks more often than it may
	CodeRouteNotFound       = "route_not_found"          // there is no such path
	CodeMethodNotAllowed    = "method_not_allowed"       // the path exists, but not with this method
	CodeRequestMalformed    = "request_malformed"        // this is not HTTP/1.1
	CodeRequestTimeout      = "request_timeout"          // the request did not arrive in time
	CodeHeaderTooLarge      = "header_too_large"         // the request's header is above the limit
	CodeBodyTooLarge        = "body_too_large"           // the request's body is above the limit
	CodeBodyMalformed       = "body_malformed"           // the body is not one JSON document without doubt
	CodeBodyRequired        = "body_required"            // the route needs a body
	CodeBodyUnexpected      = "body_unexpected"          // the route takes none
	CodeEncodingUnsupported = "encoding_not_supported"   // the request carries Content-Encoding
	CodeMediaUnsupported    = "media_type_not_supported" // the body is not application/json
	CodeUploadCut           = "upload_cut"               // in a bulk summary: the lines did not arrive whole
	CodeNotReady            = "not_ready"                // operator listener: the service cannot work now; in a bulk summary: it is stopping
)
