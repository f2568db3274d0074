-- Health of a VPCIngressPoint in Argo CD. Failures that need a person are Degraded, waiting is Progressing.
local needsPerson = {
  PodSecurityForbidden = true, RejectedByGateway = true, SnapshotTooLarge = true,
  ProviderUnavailable = true, SIDNotRegistered = true, AnnouncementRejected = true,
}
local hs = { status = "Progressing", message = "Waiting for the operator" }
local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration == nil then
  return hs
end
if status.observedGeneration ~= obj.metadata.generation then
  hs.message = "The operator has not seen generation " .. tostring(obj.metadata.generation) .. " yet"
  return hs
end
local by = {}
for _, condition in ipairs(status.conditions) do
  by[condition.type] = condition
end
local function is(type, value)
  return by[type] ~= nil and by[type].status == value
end
local function says(type)
  return type .. ": " .. (by[type].reason or "") .. ": " .. (by[type].message or "")
end
-- Reconciling goes first: work is under way, whatever else is said.
if is("Reconciling", "True") then
  return { status = "Progressing", message = says("Reconciling") }
end
-- A warning makes a condition False and leaves Ready True.
if is("Ready", "True") then
  return { status = "Healthy", message = by.Ready.message or "" }
end
for _, type in ipairs({ "Accepted", "ResolvedRefs" }) do
  if is(type, "False") then
    return { status = "Degraded", message = says(type) }
  end
end
for _, type in ipairs({ "Programmed", "FabricReady" }) do
  if is(type, "False") and needsPerson[by[type].reason or ""] then
    return { status = "Degraded", message = says(type) }
  end
end
if is("Stalled", "True") then
  return { status = "Degraded", message = says("Stalled") }
end
if by.Ready ~= nil then
  hs.message = says("Ready")
end
return hs
