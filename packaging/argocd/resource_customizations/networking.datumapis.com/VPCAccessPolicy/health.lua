-- Health of a VPCAccessPolicy in Argo CD: what our controller says about each target.
local controller = "networking.datumapis.com/masque-gateway"
local hs = { status = "Progressing", message = "Waiting for the operator" }
if obj.status == nil or obj.status.ancestors == nil then
  return hs
end
local seen, waiting = 0, nil
for _, ancestor in ipairs(obj.status.ancestors) do
  if ancestor.controllerName == controller then
    seen = seen + 1
    local name = ancestor.ancestorRef.kind .. " " .. ancestor.ancestorRef.name
    for _, condition in ipairs(ancestor.conditions or {}) do
      local says = name .. ": " .. (condition.reason or "") .. ": " .. (condition.message or "")
      if condition.observedGeneration ~= nil and condition.observedGeneration ~= obj.metadata.generation then
        waiting = waiting or name .. ": the operator has not seen generation " .. tostring(obj.metadata.generation) .. " yet"
      elseif condition.status == "False" and condition.type ~= "Programmed" then
        return { status = "Degraded", message = says }
      elseif condition.status ~= "True" then
        waiting = waiting or says
      end
    end
  end
end
if waiting ~= nil then
  hs.message = waiting
elseif seen > 0 then
  hs = { status = "Healthy", message = "In force on " .. tostring(seen) .. " target(s)" }
end
return hs
